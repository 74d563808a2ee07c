"""May FROM reach a Service? The verdict on each endpoint that the Service may choose for it. Called by `percale why`; pure.

    FROM ─ the nodes where its packet meets the Service ─▶ resolve there ─▶ endpoints ─▶ a verdict on each

Policies are evaluated after the choice. A source that is masqueraded is seen as it is by its own node's policies, and as that
node by those of an endpoint on another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from percale.errors import BadInput
from percale.explain.service_world import MasqueradeAddress
from percale.explain.services.show import unproxied_reason
from percale.explain.why.connection import Answer, Reply, explain_connection
from percale.explain.why.smallest_fix import Fix, NoFix, useful
from percale.explain.why.targets import Target, TargetLookup
from percale.explain.why.text import PlacesAndTool
from percale.explain.why.text import to_text as connection_text
from percale.model.ip_family import Family
from percale.model.pod import Protocol
from percale.model.service import Service, ServicePort
from percale.policy.verdict import FlowEnd, Verdict
from percale.service import packet_lookup
from percale.service.resolver import ServiceResolver
from percale.service.service_ports import Vip, VipKind, format_endpoint

TableOf: TypeAlias = Callable[[str], ServiceResolver]
"""The Service as a node has it."""

Word: TypeAlias = Literal["allowed", "denied", "in part", "unknown"]

_ENTRANCES: tuple[VipKind, ...] = ("load-balancer", "external", "node-port", "cluster")
"""Where clients outside come in; the first that there is."""


class Cluster(Struct, frozen=True):
    """What a Service may meet."""

    lookup: TargetLookup
    table_of: TableOf
    nodes: Sequence[str]
    masquerade_addresses: Callable[[str], Sequence[MasqueradeAddress]]
    """Of a node, towards pods of other nodes."""


class Endpoint(Struct, frozen=True):
    """One that may be chosen. `seen_as`: whom its node sees instead of FROM."""

    reply: Reply
    seen_as: str | None


class ServicePath(Struct, frozen=True):
    """By one address of the Service, over nodes on which the same happens."""

    nodes: tuple[str, ...]
    """Empty: no node is known."""
    address: str
    """With port and protocol."""
    chosen: packet_lookup.Answer
    endpoints: tuple[Endpoint, ...]

    @property
    def words(self) -> set[Word]:
        return {each.reply.word for each in self.endpoints} or {"denied"}


class ServiceReply(Struct, frozen=True):
    """All that there is to say. Without ways, FROM and the Service have no address family in common."""

    source: Target
    service: Service
    port: ServicePort
    paths: tuple[ServicePath, ...]

    @property
    def name(self) -> str:
        return f"svc/{self.service.key}:{self.port.name or self.port.port}"

    @property
    def word(self) -> Word:
        """Of all endpoints that may be chosen, over every way."""
        words = {word for path in self.paths for word in path.words}
        if "unknown" in words or not words:
            return "unknown"
        return "in part" if len(words) > 1 else words.pop()


def find_service_port(service: Service, text: str, hint: str) -> ServicePort:
    """`80`, `http`, `53/udp`. `hint`: what to ask where no port of it leads anywhere. Raises BadInput."""
    if (why := unproxied_reason(service)) is not None:
        raise BadInput(f"Service {service.key} is {why}", hint=hint)
    wanted, _, protocol = text.partition("/")
    ports = [each for each in service.spec.ports if protocol.upper() in ("", each.protocol)]
    found = next((each for each in ports if wanted in (each.name, str(each.port))), None)
    if found is None:
        known = ", ".join(
            f"{f'{each.name} = ' if each.name else ''}{each.port}/{each.protocol}" for each in service.spec.ports
        )
        raise BadInput(f"Service {service.key} has no port {text}", hint=f"it has {known}")
    return found


def service_reply(cluster: Cluster, source: Target, service: Service, port: ServicePort) -> ServiceReply:
    """FROM's own node decides; where FROM is on none, every node of the cluster may."""
    home = next((home for each in source.ends if (home := _home(each)) is not None), None)
    entries: Sequence[str] = (home,) if home else cluster.nodes or ("",)
    paths: list[ServicePath] = []
    for entry in entries:
        for path in _service_paths(cluster, source, service, port, entry):
            _merge_path(paths, path)
    return ServiceReply(source, service, port, tuple(paths))


def _home(end: FlowEnd) -> str | None:
    return end.node or (end.pod.node if end.pod is not None else None)


def _merge_path(paths: list[ServicePath], new: ServicePath) -> None:
    """What happens on several nodes is said once."""
    for index, path in enumerate(paths):
        if (path.endpoints, path.chosen) == (new.endpoints, new.chosen):
            paths[index] = replace(path, nodes=(*path.nodes, *new.nodes))
            return
    paths.append(new)


def _service_paths(
    cluster: Cluster, source: Target, service: Service, port: ServicePort, entry: str
) -> Iterator[ServicePath]:
    """One for each address family that both have."""
    table = cluster.table_of(entry)
    resolved = table.services.get(service.key)
    outside = all(end.pod is None and end.node is None for end in source.ends)
    for each in resolved.ports if resolved is not None else ():
        ends = tuple(end for end in source.ends if len(end.address) == each.family.size)
        target = _entrance(each.vips, table, each.family, outside=outside)
        if (each.name.port, each.name.protocol) != (port.name or "", port.protocol) or not ends or target is None:
            continue
        address, number = target
        chosen = packet_lookup.resolve(table, ip_address(ends[0].address), ip_address(address), number, port.protocol)
        client = replace(source, ends=ends)
        masquerading = entry if chosen.masquerade else ""
        endpoints = tuple(
            _endpoint_verdict(cluster, client, text, port.protocol, masquerading) for text in chosen.endpoints
        )
        endpoint_text = f"{format_endpoint(address, number)}/{port.protocol}"
        yield ServicePath((entry,) if entry else (), endpoint_text, chosen, endpoints)


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


def _endpoint_verdict(
    cluster: Cluster, source: Target, endpoint: str, protocol: Protocol, masquerading: str
) -> Endpoint:
    """`masquerading`: the node that puts an address of its own in the place of FROM's; "": none does."""
    evaluator = cluster.lookup.evaluator
    text, _, number = endpoint.rpartition(":")
    end = evaluator.flow_end(ip_address(text.strip("[]")).packed)
    asked = Target(_name_of(end), (end,), end.pod is not None and end.pod.key in cluster.lookup.made_up)
    direct = explain_connection(cluster.lookup, source, asked, protocol, int(number))
    masquerades = cluster.masquerade_addresses(masquerading)
    masquerade_addresses = [each for each in masquerades if len(each.address) == len(end.address)]
    if not masquerade_addresses or _home(end) in (None, masquerading):
        return Endpoint(direct, None)
    clients = [evaluator.flow_end(each.address) for each in masquerade_addresses]
    seen = [
        explain_connection(cluster.lookup, Target(_name_of(each), (each,)), asked, protocol, int(number))
        for each in clients
    ]
    who = " or ".join(map(str, masquerade_addresses))
    together = zip(direct.answers, *(each.answers for each in seen), strict=True)
    answers = tuple(_combined(own, others, who) for own, *others in together)
    return Endpoint(replace(direct, answers=answers), who)


def _name_of(end: FlowEnd) -> str:
    if end.pod is not None:
        return str(end.pod.key)
    return f"node/{end.node}" if end.node else str(ip_address(end.address))


def _combined(direct: Answer, seen: Sequence[Answer], who: str) -> Answer:
    """FROM's egress, and the ingress evaluated by the endpoint's node, whose verdict may depend on the path."""
    ingress = seen[0].verdict.ingress
    near = [each for each in direct.nearest if each.rule.direction == "egress"]
    near += [each for each in seen[0].nearest if each.rule.direction == "ingress"]
    fixes = [each for each in direct.fixes if each.direction == "egress"]
    if not ingress.allowed:
        fixes.append(Fix("ingress", NoFix(f"a rule would mean {who}, and so every client that it masquerades")))
    doubt = direct.doubt
    if doubt is None and any(each.verdict.ingress.allowed != ingress.allowed for each in seen):
        doubt = f"it depends on the way between the nodes: {who}"
    return Answer(Verdict(direct.verdict.flow, direct.verdict.egress, ingress), tuple(near), doubt, useful(fixes))


# Telling


def to_text(reply_: ServiceReply, places: PlacesAndTool) -> Iterator[str]:
    """For a person; the verdict first."""
    replies = [each.reply for path in reply_.paths for each in path.endpoints]
    names = {each.destination.name for each in replies if each.word == "allowed"}
    everybody = {each.destination.name for each in replies}
    head = {
        "allowed": "allowed",
        "denied": "denied",
        "in part": f"in part: {len(names)} of {len(everybody)} endpoints allowed",
        "unknown": "cannot tell",
    }[reply_.word]
    if reply_.word == "in part" and names == everybody:
        head = "in part: it depends on the node"
    yield f"{head}: {reply_.source.name} → {reply_.name}"
    if not reply_.paths:
        yield "  they have no address family in common"
    for path in reply_.paths:
        yield f"  {path.address}{_by(path)}: {path.chosen.reason}"
        if not path.endpoints:
            yield f"    {_REFUSALS[path.chosen.action]}"
        for each in path.endpoints:
            for index, line in enumerate(connection_text(each.reply, places)):
                yield f"    {line}"
                if not index and each.seen_as is not None:
                    yield f"      masked   its node sees {each.seen_as}"


_REFUSALS = {"reject": "refused", "drop": "dropped", "none": "not a Service's matter"}


def _by(path: ServicePath) -> str:
    return f" by {', '.join(path.nodes)}" if path.nodes else ""
