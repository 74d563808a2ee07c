"""Selects the endpoints that a node uses for a service port. Called by `resolver.py` for each port of a changed Service.

A record is an endpoint as element data: address and port, in network order (6 or 18 bytes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct

from percale.model.ip_family import Family
from percale.service.endpoint_slices import DRAINING, LOCAL, READY, Hints, SliceFacts

Record: TypeAlias = bytes


class Candidates(Struct, frozen=True, gc=False):
    """All endpoints of a service port."""

    states: Mapping[Record, int]
    hints: Mapping[Record, Hints]


def candidates(slices: Iterable[SliceFacts], family: Family, name: str, protocol: str) -> Candidates:
    """The endpoints of one port. Of duplicates the first counts, or the first local one."""
    states: dict[Record, int] = {}
    hints: dict[Record, Hints] = {}
    for each, records in _matching(slices, family, name, protocol):
        if not states and not each.hints:
            states = dict(zip(records, each.states, strict=True))
            if len(states) == len(records):
                continue
            states = {}
        for index, record in enumerate(records):
            state = each.states[index]
            if record in states and not state & LOCAL:
                continue
            states[record] = state
            if each.hints:
                hints[record] = each.hints[index]
            else:
                hints.pop(record, None)
    return Candidates(states, hints)


def nodes_of(slices: Iterable[SliceFacts], family: Family, name: str, protocol: str) -> dict[Record, str | None]:
    """The node of each endpoint."""
    return {
        record: node
        for each, records in _matching(slices, family, name, protocol)
        for record, node in zip(records, each.nodes, strict=True)
    }


def _matching(
    slices: Iterable[SliceFacts], family: Family, name: str, protocol: str
) -> Iterator[tuple[SliceFacts, list[Record]]]:
    for each in slices:
        if each.family != family:
            continue
        for port in each.ports:
            if port.name == name and port.protocol == protocol:
                yield each, _records(each.addresses, each.size, port.number)


def _records(addresses: bytes, size: int, port: bytes) -> list[Record]:
    return [addresses[start : start + size] + port for start in range(0, len(addresses), size)]


class Selection(Struct, frozen=True, gc=False):
    """Sorted. `cluster` is for the policy Cluster, `local` for the policy Local; `anywhere`: whether any node has an endpoint."""

    cluster: Sequence[Record]
    local: Sequence[Record]
    anywhere: bool


def select(found: Candidates, node: str, zone: str) -> Selection:
    """Ready endpoints, by topology hints, else those that serve while they terminate."""
    states = found.states
    distinct = set(states.values())  # many endpoints, few states
    if all(state & READY for state in distinct):
        ready, draining = sorted(states), []
    else:
        ready = sorted([record for record, state in states.items() if state & READY])
        draining = sorted([record for record, state in states.items() if state & DRAINING])
    some_local = any(state & LOCAL for state in distinct)
    local = [record for record in ready if states[record] & LOCAL] if some_local else []
    return Selection(
        cluster=(by_hints(ready, found.hints, node, zone) if found.hints else ready) or draining,
        local=local or ([record for record in draining if states[record] & LOCAL] if some_local else []),
        anywhere=bool(ready or draining),
    )


def by_hints(ready: Sequence[Record], hints: Mapping[Record, Hints], node: str, zone: str) -> Sequence[Record]:
    """Those with hints for this node, else for its zone, else all. Hints count only if every ready endpoint has one."""
    given = [hints.get(record, Hints()) for record in ready]
    if all(each.nodes for each in given):
        here = [record for record, each in zip(ready, given, strict=True) if node in each.nodes]
        if here:
            return here
    if all(each.zones for each in given):
        here = [record for record, each in zip(ready, given, strict=True) if zone in each.zones]
        if here:
            return here
    return ready
