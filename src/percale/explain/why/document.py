"""Answers of `percale why` as JSON documents (`-o json`). The field names are an interface."""

from __future__ import annotations

from ipaddress import ip_address

from msgspec import UNSET, Struct, UnsetType, field

from percale.explain.why.connection import Answer, Reply
from percale.explain.why.smallest_fix import Fix, NoFix
from percale.explain.why.text import PlacesAndTool, change_text
from percale.explain.why.through_service import ServicePath, ServiceReply
from percale.model.ip_family import Family
from percale.policy.verdict import Decision, FlowEnd


class PolicyDocument(Struct, frozen=True):
    """A policy, and `file:line` where it is written."""

    policy: str
    place: str | None


class DecisionDocument(Struct, frozen=True):
    """What one side decides."""

    allowed: bool
    why: str
    rule: str | None
    place: str | None
    isolating: tuple[PolicyDocument, ...]


class NearestDocument(Struct, frozen=True):
    """The rule that comes nearest to allowing the flow."""

    rule: str
    place: str | None
    differences: tuple[str, ...]


class FixDocument(Struct, frozen=True):
    """The smallest change that makes a side allow the flow; None: there is none, with the reason."""

    direction: str
    fix: str | None
    reason: str | None


class FlowDocument(Struct, frozen=True):
    """The answer for one address family; without decisions when nobody can tell."""

    verdict: str
    reason: str | None
    family: str
    source: str | None
    destination: str | None
    egress: DecisionDocument | None
    ingress: DecisionDocument | None
    nearest: tuple[NearestDocument, ...]
    fixes: tuple[FixDocument, ...]


class ConnectionDocument(Struct, frozen=True):
    """A connection between two targets. `taken`: the pods that stand for workloads."""

    from_: str = field(name="from")
    to: str
    protocol: str
    port: int | None
    verdict: str
    reason: str | None
    flows: tuple[FlowDocument, ...]
    taken: dict[str, str] | UnsetType = UNSET


class EndpointDocument(ConnectionDocument, frozen=True, rename="camel"):
    """The connection to one endpoint of a Service; `seen_as`: whom the endpoint's node sees instead of FROM."""

    seen_as: str | None = None


class PathDocument(Struct, frozen=True):
    """By one address of the Service."""

    nodes: tuple[str, ...]
    address: str
    action: str
    masquerade: bool
    reason: str
    endpoints: tuple[EndpointDocument, ...]


class ServiceDocument(Struct, frozen=True):
    """A connection to a Service."""

    from_: str = field(name="from")
    to: str
    protocol: str
    port: int
    verdict: str
    ways: tuple[PathDocument, ...]
    taken: dict[str, str] | UnsetType = UNSET


def connection_document(reply: Reply, places: PlacesAndTool) -> ConnectionDocument:
    """The whole reply."""
    return ConnectionDocument(
        from_=reply.source.name,
        to=reply.destination.name,
        protocol=reply.protocol,
        port=reply.port,
        verdict=reply.word,
        reason=reply.doubt or next((answer.doubt for answer in reply.answers if answer.doubt), None),
        flows=tuple(_flow(answer, reply, places) for answer in reply.answers),
    )


def service_document(reply: ServiceReply, places: PlacesAndTool) -> ServiceDocument:
    """The whole reply about a Service."""
    return ServiceDocument(
        from_=reply.source.name,
        to=f"svc/{reply.service.key}",
        protocol=reply.port.protocol,
        port=reply.port.port,
        verdict=reply.word,
        ways=tuple(_path(path, places) for path in reply.paths),
    )


def _path(path: ServicePath, places: PlacesAndTool) -> PathDocument:
    return PathDocument(
        nodes=path.nodes,
        address=path.address,
        action=path.chosen.action,
        masquerade=path.chosen.masquerade,
        reason=path.chosen.reason,
        endpoints=tuple(_endpoint(each.reply, each.seen_as, places) for each in path.endpoints),
    )


def _endpoint(reply: Reply, seen_as: str | None, places: PlacesAndTool) -> EndpointDocument:
    connection = connection_document(reply, places)
    return EndpointDocument(
        **{name: getattr(connection, name) for name in connection.__struct_fields__}, seen_as=seen_as
    )


def _flow(answer: Answer, reply: Reply, places: PlacesAndTool) -> FlowDocument:
    flow = answer.verdict.flow
    known = answer.doubt is None
    return FlowDocument(
        verdict=answer.word,
        reason=answer.doubt,
        family=Family.of_packed(flow.source.address).kubernetes,
        source=None if reply.source.unknown else _address(flow.source),
        destination=None if reply.destination.unknown else _address(flow.destination),
        egress=_decision(answer.verdict.egress, places) if known else None,
        ingress=_decision(answer.verdict.ingress, places) if known else None,
        nearest=tuple(
            NearestDocument(
                str(near.rule),
                places.place(near.rule),
                tuple(each.what for each in near.differences),
            )
            for near in answer.nearest
        ),
        fixes=tuple(_fix(each, places) for each in answer.fixes),
    )


def _decision(decision: Decision, places: PlacesAndTool) -> DecisionDocument:
    return DecisionDocument(
        allowed=decision.allowed,
        why=decision.why,
        rule=str(decision.rule) if decision.rule is not None else None,
        place=places.place(decision.rule) if decision.rule is not None else None,
        isolating=tuple(PolicyDocument(str(each), places.policy_place(each)) for each in decision.isolating),
    )


def _fix(fix: Fix, places: PlacesAndTool) -> FixDocument:
    if isinstance(fix.change, NoFix):
        return FixDocument(fix.direction, None, fix.change.reason)
    return FixDocument(fix.direction, change_text(fix.change, places.tool), None)


def _address(end: FlowEnd) -> str:
    return str(ip_address(end.address))
