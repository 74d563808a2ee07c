"""Every endpoint of a service port, and why a node uses it or not. Called by `showing`; pure.

    EndpointSlices ─▶ candidates, each with its state ─┐
    ResolvedPort (what the table chose) ───────────────┴▶ Seen: for whom it is used, and why not for the others

The choice itself is made in service/endpoint_selection.py, and nowhere else: here it is only reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from percale.model.endpoints import SERVICE_LABEL, Endpoint, Endpoints, EndpointSlice
from percale.model.meta import Object, ObjectKey
from percale.model.service import Service
from percale.service.endpoint_selection import Record, Selection, candidates, select
from percale.service.endpoint_slices import DRAINING, LOCAL, READY, Hints, SliceFacts, facts_of_slice
from percale.service.endpoints_mirroring import is_mirrored, mirrored_slices
from percale.service.resolved_service import NoEndpointsAction, ResolvedPort, Slots
from percale.service.resolver import ServiceResolver
from percale.service.service_ports import format_endpoint

User: TypeAlias = Literal["cluster IP", "this node", "outside"]
"""Who is served: everybody at the cluster IP; at other addresses pods and this node, or all others."""

_NOT_FOR: dict[User, str] = {
    "cluster IP": "at the cluster IP",
    "this node": "for pods and this node at other addresses",
    "outside": "for clients outside",
}


class EndpointUsage(Struct, frozen=True):
    """An endpoint as one node sees it. `reason`: why it is unused, used in part, or used though not ready."""

    endpoint: str
    record: Record
    pod: str | None
    node: str | None
    users: tuple[User, ...]
    used: Literal["yes", "no", "in part"]
    reason: str | None


def slices_of(service: Service, objects: Iterable[Object], node: str) -> tuple[EndpointSlice, ...]:
    """Those that count, in the table's order; a Service without a selector and without slices has its Endpoints'."""
    everything = list(objects)
    own = [each for each in everything if isinstance(each, EndpointSlice) and _belongs(each, service.key, node)]
    if not own and not service.spec.selector:
        written = (each for each in everything if isinstance(each, Endpoints) and each.key == service.key)
        return tuple(entry for each in written if is_mirrored(each) for entry in mirrored_slices(each))
    return tuple(sorted(own, key=lambda each: each.metadata.name))


def _belongs(entry: EndpointSlice, key: ObjectKey, node: str) -> bool:
    if entry.metadata.namespace != key.namespace or entry.metadata.labels.get(SERVICE_LABEL) != key.name:
        return False
    return facts_of_slice(entry, node) is not None


def endpoints_of(port: ResolvedPort, slices: Sequence[EndpointSlice], table: ServiceResolver) -> list[EndpointUsage]:
    """All of them, in the order of the slices; `port` is what the table made of these slices."""
    usages = _Usages(port, slices, table)
    return [usages.usage_of(each) for each in usages.candidates]


def users_of(port: ResolvedPort) -> dict[User, Slots | NoEndpointsAction]:
    """Where each goes; a port with a cluster IP alone has one kind of user."""
    users: dict[User, Slots | NoEndpointsAction] = {"cluster IP": port.cluster_ip_clients}
    if any(vip.kind != "cluster" for vip in port.vips):
        users |= {"this node": port.node_local_clients, "outside": port.external_clients}
    return users


class _Candidate(Struct, frozen=True):
    """An endpoint with one of its slice's ports. `twin`: another slice, or the same one, has it too, and that one counts."""

    record: Record
    state: int
    hints: Hints
    endpoint: Endpoint
    slice: str
    twin: str | None = None


class _Usages:
    """The usage of one service port's endpoints."""

    def __init__(self, port: ResolvedPort, slices: Sequence[EndpointSlice], table: ServiceResolver) -> None:
        self._port, self._tunnels = port, table.tunnels
        self._node = node = table.config.node
        which = (port.family, port.name.port, port.name.protocol)
        facts = [each for each in (facts_of_slice(entry, node) for entry in slices) if each is not None]
        usable = [part for each in facts for part in self._tunnels.without_tunnels(each)]
        self._selection: Selection = select(candidates(usable, *which), node, table.node.zone)
        self._sets = {user: _records(port, slots) for user, slots in users_of(port).items()}
        self.candidates = list(_marked([each for entry in slices for each in _candidates(entry, port, node)]))

    @cached_property
    def _is_by_node(self) -> bool:
        """Hints for nodes were followed, and not those for zones."""
        hints = {each.record: each.hints for each in self.candidates if each.twin is None}
        return all(self._node in hints[record].nodes for record in self._selection.cluster if record in hints)

    def usage_of(self, each: _Candidate) -> EndpointUsage:
        users = tuple(user for user, records in self._sets.items() if each.record in records and each.twin is None)
        used: Literal["yes", "no", "in part"] = "yes" if len(users) == len(self._sets) else "in part" if users else "no"
        target = each.endpoint.targetRef
        is_pod = target is not None and target.kind == "Pod"
        return EndpointUsage(
            endpoint=format_endpoint(each.record[:-2], int.from_bytes(each.record[-2:])),
            record=each.record,
            pod=f"{target.namespace}/{target.name}" if target is not None and is_pod else None,
            node=each.endpoint.nodeName,
            users=users,
            used=used,
            reason=self._reason(each, users),
        )

    def _reason(self, each: _Candidate, users: Sequence[User]) -> str | None:
        if each.twin is not None:
            return f"duplicate: slice {each.twin} has it too, and that one counts"
        if self._tunnels.has(each.record, self._port.name.protocol):
            return "the tunnel of a node"
        reasons: dict[str, list[User]] = {}
        for user in self._sets:
            if user not in users:
                reasons.setdefault(self._why_not(each, user), []).append(user)
        if not users and len(reasons) == 1:
            return next(iter(reasons))
        if reasons:
            return "; ".join(
                f"not {' or '.join(_NOT_FOR[user] for user in whom)}: {why}" for why, whom in reasons.items()
            )
        return None if each.state & READY else "terminating, but nobody is ready"

    def _why_not(self, each: _Candidate, user: User) -> str:
        is_local = self._is_local(user)
        if not each.state & READY:
            if not each.endpoint.conditions.terminating:
                return "not ready"
            return "terminating" if each.state & DRAINING else "terminating, and serves no more"
        if is_local and not each.state & LOCAL:
            where = f"on {each.endpoint.nodeName}" if each.endpoint.nodeName else "on no node that is known"
            policy = "internalTrafficPolicy" if user == "cluster IP" else "externalTrafficPolicy"
            return f"{where}, and {policy} is Local"
        if each.record in (self._selection.local if is_local else self._selection.cluster):
            return "its weight is 0"
        if self._is_by_node:
            return f"topology hint: for {', '.join(each.hints.nodes)}"
        return f"topology hint: for zone {', '.join(each.hints.zones)}"

    def _is_local(self, user: User) -> bool:
        spec = self._port.spec
        return (user == "cluster IP" and spec.internal_local) or (user == "outside" and spec.external_local)


def _records(port: ResolvedPort, slots: Slots | NoEndpointsAction) -> frozenset[Record]:
    return frozenset() if isinstance(slots, str) else frozenset(port.records(slots))


def _candidates(entry: EndpointSlice, port: ResolvedPort, node: str) -> Iterator[_Candidate]:
    """Each endpoint by itself, so that what is reported is the resolver's own selection."""
    for endpoint in entry.endpoints:
        facts: SliceFacts | None = facts_of_slice(replace(entry, endpoints=(endpoint,)), node)
        if facts is None or not facts.addresses or facts.family != port.family:
            continue
        for each in facts.ports:
            if (each.name, each.protocol) != (port.name.port, port.name.protocol):
                continue
            yield _Candidate(
                record=facts.addresses + each.number,
                state=facts.states[0],
                hints=facts.hints[0] if facts.hints else Hints(),
                endpoint=endpoint,
                slice=entry.metadata.name,
            )


def _marked(found: Sequence[_Candidate]) -> Iterator[_Candidate]:
    """Of several that are one endpoint, the last local one counts, or else the first one."""
    counting: dict[Record, _Candidate] = {}
    for each in found:
        if each.record not in counting or each.state & LOCAL:
            counting[each.record] = each
    for each in found:
        counts = counting[each.record]
        if counts is each:
            yield each
        else:
            yield _Candidate(each.record, each.state, each.hints, each.endpoint, each.slice, counts.slice)
