"""A matrix, and what a change opens and closes, as JSON documents (`matrix -o json`). The field names are an interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct, field

from percale.explain.matrix.diff import FlowChange
from percale.explain.matrix.matrix import Matrix
from percale.explain.matrix.port_space import PortSet, PortSpace
from percale.explain.matrix.text import format_ports, names
from percale.explain.pod_owners import Group
from percale.explain.why.text import Places, reason
from percale.policy.verdict import Decision, FlowEnd


class GroupDocument(Struct, frozen=True):
    """A row and column. `addresses`: how many; None outside the cluster."""

    name: str
    sort: str
    namespace: str | None
    kind: str | None
    addresses: int | None


class FlowDocument(Struct, frozen=True):
    """What every pair of two groups gets, and what some pair gets: by protocol, `80` and `8000-8999`; ICMP has an empty list."""

    from_: str = field(name="from")
    to: str
    ports: str
    every: Mapping[str, Sequence[str]]
    some: Mapping[str, Sequence[str]]


class MatrixDocument(Struct, frozen=True):
    """The groups, and every pair, also those that get nothing."""

    groups: Sequence[GroupDocument]
    flows: Sequence[FlowDocument]


class ChangeDocument(Struct, frozen=True):
    """A flow that a change opens or closes, with what decides before and after."""

    from_: str = field(name="from")
    to: str
    change: Literal["opens", "closes"]
    ports: str
    partly: bool
    before: str
    after: str
    example: str


class DiffDocument(Struct, frozen=True):
    """All that a change opens and closes."""

    flips: Sequence[ChangeDocument]


def matrix_document(matrix: Matrix) -> MatrixDocument:
    called = dict(zip(matrix.groups, names(matrix.groups), strict=True))
    return MatrixDocument(
        [
            GroupDocument(name, group.sort, group.namespace, group.kind, size if group.sort != "outside" else None)
            for (group, name), size in zip(called.items(), matrix.sizes, strict=True)
        ],
        [
            FlowDocument(
                from_=called[edge.source],
                to=called[edge.destination],
                ports=format_ports(matrix, edge.cell.every) if edge.cell.every else "none",
                every=_ports(matrix.space, edge.cell.every),
                some=_ports(matrix.space, edge.cell.some),
            )
            for edge in matrix.edges()
        ],
    )


def change_document(
    change: FlowChange, called: Mapping[Group, str], space: PortSpace, before: Places, after: Places
) -> ChangeDocument:
    """`called`: the groups' names; the places are those of each world."""
    source, destination = change.example
    return ChangeDocument(
        from_=called[change.source],
        to=called[change.destination],
        change="opens" if change.opens else "closes",
        ports=space.text(change.ports),
        partly=change.partly,
        before=_because(change.before, change.example, before),
        after=_because(change.after, change.example, after),
        example=f"{source} → {destination}",
    )


def _ports(space: PortSpace, ports: PortSet) -> dict[str, list[str]]:
    return {
        protocol: [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
        for protocol, ranges in space.ranges(ports).items()
    }


def _because(decision: Decision, flow: tuple[FlowEnd, FlowEnd], places: Places) -> str:
    """`ingress allowed by np:ns/name#ingress[0] (file:line)`."""
    if decision.why == "open":
        return "allowed: no policy isolates either end"
    end = flow[decision.direction == "ingress"]
    return f"{decision.direction} {reason(decision, end, places)}"
