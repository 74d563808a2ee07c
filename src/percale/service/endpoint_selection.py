"""Which endpoints a node uses for a service port. A pure choice, called by `table` for each port of a changed service.

A record is an endpoint as the kernel wants it: its address and its port, in network order (6 or 18 bytes).
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
    """The endpoints of one port. An endpoint that is there twice counts as its first, but a local one wins."""
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


class Choice(Struct, frozen=True, gc=False):
    """Sorted. `cluster` is for the policy Cluster, `local` for the policy Local; `anywhere`: some node has an endpoint."""

    cluster: Sequence[Record]
    local: Sequence[Record]
    anywhere: bool


def choose(found: Candidates, node: str, zone: str) -> Choice:
    """What this node uses: ready ones near it, else those that still serve while they end."""
    states = found.states
    said = set(states.values())  # very many endpoints say one thing
    if all(state & READY for state in said):
        ready, draining = sorted(states), []
    else:
        ready = sorted([record for record, state in states.items() if state & READY])
        draining = sorted([record for record, state in states.items() if state & DRAINING])
    some_local = any(state & LOCAL for state in said)
    local = [record for record in ready if states[record] & LOCAL] if some_local else []
    return Choice(
        cluster=(near(ready, found.hints, node, zone) if found.hints else ready) or draining,
        local=local or ([record for record in draining if states[record] & LOCAL] if some_local else []),
        anywhere=bool(ready or draining),
    )


def near(ready: Sequence[Record], hints: Mapping[Record, Hints], node: str, zone: str) -> Sequence[Record]:
    """Those meant for this node, else for its zone, else all. A hint counts only when every ready endpoint has one."""
    told = [hints.get(record, Hints()) for record in ready]
    if all(each.nodes for each in told):
        here = [record for record, each in zip(ready, told, strict=True) if node in each.nodes]
        if here:
            return here
    if all(each.zones for each in told):
        here = [record for record, each in zip(ready, told, strict=True) if zone in each.zones]
        if here:
            return here
    return ready
