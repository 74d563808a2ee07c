"""May FROM reach a Service? The verdict on each endpoint that the Service may choose for it. Called by `percale why`; pure.

    FROM ─ the nodes where its packet meets the Service ─▶ resolve there ─▶ endpoints ─▶ answering.reply for each

Policies are judged after the choice. A source that is masqueraded is seen as it is by its own node's policies, and as that
node by those of an endpoint on another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from percale.errors import BadInput
from percale.explain.services.show import apart
from percale.explain.why.connection import Answer, Reply, reply
from percale.explain.why.masquerade_addresses import Face
from percale.explain.why.targets import Asked, Surroundings
from percale.explain.why.text import Places
from percale.explain.why.text import as_json as reply_as_json
from percale.explain.why.text import lines as reply_lines
from percale.model.ip_family import Family
from percale.model.meta import Object
from percale.model.node import Node
from percale.model.pod import Protocol
from percale.model.service import Service, ServicePort
from percale.policy.verdict import FlowEnd, Verdict
from percale.service import packet_lookup as resolving
from percale.service.node_context import ServiceConfig, facts_of_node
from percale.service.resolver import ServiceResolver
from percale.service.service_ports import PortName, Vip, VipKind, facts_of_service, format_endpoint

TableOf: TypeAlias = Callable[[str], ServiceResolver]
"""The Service as a node has it."""

Word: TypeAlias = Literal["allowed", "denied", "in part", "unknown"]

_ENTRANCES: tuple[VipKind, ...] = ("load-balancer", "external", "node-port", "cluster")
"""Where clients outside come in; the first that there is."""


"""Bytes of an address, by family."""


class Cluster(Struct, frozen=True):
    """What a Service may meet."""

    around: Surroundings
    table_of: TableOf
    nodes: Sequence[str]
    faces: Callable[[str], Sequence[Face]]
    """Of a node, towards pods of other nodes."""


class Endpoint(Struct, frozen=True):
    """One that may be chosen. `seen_as`: whom its node sees instead of FROM."""

    reply: Reply
    seen_as: str | None


class Way(Struct, frozen=True):
    """By one address of the Service, over nodes on which the same happens."""

    nodes: tuple[str, ...]
    """Empty: no node is known."""
    address: str
    """With port and protocol."""
    chosen: resolving.Answer
    endpoints: tuple[Endpoint, ...]

    @property
    def words(self) -> set[Word]:
        return {each.reply.word for each in self.endpoints} or {"denied"}


class ServiceReply(Struct, frozen=True):
    """All that there is to say. Without ways, FROM and the Service have no address family in common."""

    source: Asked
    service: Service
    port: ServicePort
    ways: tuple[Way, ...]

    @property
    def name(self) -> str:
        return f"svc/{self.service.key}:{self.port.name or self.port.port}"

    @property
    def word(self) -> Word:
        """Of all endpoints that may be chosen, over every way."""
        words = {word for way in self.ways for word in way.words}
        if "unknown" in words or not words:
            return "unknown"
        return "in part" if len(words) > 1 else words.pop()


def find_service_port(service: Service, text: str) -> ServicePort:
    """`80`, `http`, `53/udp`. Raises BadInput."""
    if (why := apart(service)) is not None:
        raise BadInput(f"Service {service.key} is {why}", hint="name a pod behind it")
    wanted, _, protocol = text.partition("/")
    ports = [each for each in service.spec.ports if protocol.upper() in ("", each.protocol)]
    found = next((each for each in ports if wanted in (each.name, str(each.port))), None)
    if found is None:
        known = ", ".join(
            f"{f'{each.name} = ' if each.name else ''}{each.port}/{each.protocol}" for each in service.spec.ports
        )
        raise BadInput(f"Service {service.key} has no port {text}", hint=f"it has {known}")
    return found


def service_at(objects: Iterable[Object], address: bytes, port: int, protocol: str) -> tuple[PortName, int] | None:
    """The service port, with its number, that leads a packet to there away before any policy sees it."""
    everything = list(objects)
    of_node = any(address in facts_of_node(each).addresses for each in everything if isinstance(each, Node))
    for service in everything:
        for spec in facts_of_service(service, ServiceConfig("")).ports if isinstance(service, Service) else ():
            for vip in spec.vips:
                # A node's address is no external IP, unless the agents' configuration says so: nobody here knows it.
                here = of_node if vip.kind == "node-port" else vip.address == address
                here = here and not (of_node and vip.kind == "external")
                if here and (vip.port, spec.name.protocol) == (port, protocol):
                    return spec.name, next(each.port for each in spec.vips if each.kind != "node-port")
    return None


def service_reply(cluster: Cluster, source: Asked, service: Service, port: ServicePort) -> ServiceReply:
    """FROM's own node decides; where FROM is on none, every node of the cluster may."""
    home = next((home for each in source.parties if (home := _home(each)) is not None), None)
    entries: Sequence[str] = (home,) if home else cluster.nodes or ("",)
    ways: list[Way] = []
    for entry in entries:
        for way in _ways(cluster, source, service, port, entry):
            _add(ways, way)
    return ServiceReply(source, service, port, tuple(ways))


def _home(party: FlowEnd) -> str | None:
    return party.node or (party.pod.node if party.pod is not None else None)


def _add(ways: list[Way], new: Way) -> None:
    """What happens on several nodes is said once."""
    for index, way in enumerate(ways):
        if (way.endpoints, way.chosen) == (new.endpoints, new.chosen):
            ways[index] = replace(way, nodes=(*way.nodes, *new.nodes))
            return
    ways.append(new)


def _ways(cluster: Cluster, source: Asked, service: Service, port: ServicePort, entry: str) -> Iterator[Way]:
    """One for each address family that both have."""
    table = cluster.table_of(entry)
    resolved = table.services.get(service.key)
    outside = all(party.pod is None and party.node is None for party in source.parties)
    for each in resolved.ports if resolved is not None else ():
        parties = tuple(party for party in source.parties if len(party.address) == each.family.size)
        target = _entrance(each.vips, table, each.family, outside=outside)
        if (each.name.port, each.name.protocol) != (port.name or "", port.protocol) or not parties or target is None:
            continue
        address, number = target
        chosen = resolving.resolve(table, ip_address(parties[0].address), ip_address(address), number, port.protocol)
        asker = replace(source, parties=parties)
        masquerading = entry if chosen.masquerade else ""
        endpoints = tuple(_judged(cluster, asker, text, port.protocol, masquerading) for text in chosen.endpoints)
        spelled = f"{format_endpoint(address, number)}/{port.protocol}"
        yield Way((entry,) if entry else (), spelled, chosen, endpoints)


def _entrance(
    vips: Iterable[Vip], table: ServiceResolver, family: Family, *, outside: bool
) -> tuple[bytes, int] | None:
    """The address and port to which FROM sends."""
    by_kind = {vip.kind: vip for vip in vips}
    for kind in _ENTRANCES if outside else ("cluster",):
        vip = by_kind.get(kind)
        if vip is None:
            continue
        if kind != "node-port":
            return vip.address, vip.port
        own = next((each for each in table.node_port_addresses if len(each) == family.size), None)
        if own is not None:
            return own, vip.port
    return None


def _judged(cluster: Cluster, source: Asked, endpoint: str, protocol: Protocol, masquerading: str) -> Endpoint:
    """`masquerading`: the node that puts an address of its own in the place of FROM's; "": none does."""
    evaluator = cluster.around.evaluator
    text, _, number = endpoint.rpartition(":")
    party = evaluator.flow_end(ip_address(text.strip("[]")).packed)
    asked = Asked(_called(party), (party,), party.pod is not None and party.pod.key in cluster.around.made_up)
    straight = reply(evaluator, source, asked, protocol, int(number))
    faces = [each for each in cluster.faces(masquerading) if len(each.address) == len(party.address)]
    if not faces or _home(party) in (None, masquerading):
        return Endpoint(straight, None)
    askers = [evaluator.flow_end(face.address) for face in faces]
    seen = [reply(evaluator, Asked(_called(each), (each,)), asked, protocol, int(number)) for each in askers]
    who = " or ".join(map(str, faces))
    together = zip(straight.answers, *(each.answers for each in seen), strict=True)
    answers = tuple(_joined(own, others, who) for own, *others in together)
    return Endpoint(replace(straight, answers=answers), who)


def _called(party: FlowEnd) -> str:
    if party.pod is not None:
        return str(party.pod.key)
    return f"node/{party.node}" if party.node else str(ip_address(party.address))


def _joined(straight: Answer, seen: Sequence[Answer], who: str) -> Answer:
    """FROM's egress, and the ingress that the endpoint's node judges, whose verdict may depend on the way there."""
    ingress = seen[0].verdict.ingress
    near = [each for each in straight.nearest if each.rule.direction == "egress"]
    near += [each for each in seen[0].nearest if each.rule.direction == "ingress"]
    doubt = straight.doubt
    if doubt is None and any(each.verdict.ingress.allowed != ingress.allowed for each in seen):
        doubt = f"it depends on the way between the nodes: {who}"
    return Answer(Verdict(straight.verdict.flow, straight.verdict.egress, ingress), tuple(near), doubt)


# Telling


def lines(told: ServiceReply, places: Places) -> Iterator[str]:
    """For a person; the verdict first."""
    replies = [each.reply for way in told.ways for each in way.endpoints]
    names = {each.destination.name for each in replies if each.word == "allowed"}
    everybody = {each.destination.name for each in replies}
    head = {
        "allowed": "allowed",
        "denied": "denied",
        "in part": f"in part: {len(names)} of {len(everybody)} endpoints allowed",
        "unknown": "cannot tell",
    }[told.word]
    if told.word == "in part" and names == everybody:
        head = "in part: it depends on the node"
    yield f"{head}: {told.source.name} → {told.name}"
    if not told.ways:
        yield "  they have no address family in common"
    for way in told.ways:
        yield f"  {way.address}{_by(way)}: {way.chosen.reason}"
        if not way.endpoints:
            yield f"    {_REFUSALS[way.chosen.action]}"
        for each in way.endpoints:
            for index, line in enumerate(reply_lines(each.reply, places)):
                yield f"    {line}"
                if not index and each.seen_as is not None:
                    yield f"      masked   its node sees {each.seen_as}"


_REFUSALS = {"reject": "refused", "drop": "dropped", "none": "not a Service's matter"}


def _by(way: Way) -> str:
    return f" by {', '.join(way.nodes)}" if way.nodes else ""


def as_json(told: ServiceReply, places: Places) -> dict[str, Any]:
    """All of it, for a program."""
    return {
        "from": told.source.name,
        "to": f"svc/{told.service.key}",
        "protocol": told.port.protocol,
        "port": told.port.port,
        "verdict": told.word,
        "ways": [
            {
                "nodes": list(way.nodes),
                "address": way.address,
                "action": way.chosen.action,
                "masquerade": way.chosen.masquerade,
                "reason": way.chosen.reason,
                "endpoints": [{**reply_as_json(each.reply, places), "seenAs": each.seen_as} for each in way.endpoints],
            }
            for way in told.ways
        ],
    }
