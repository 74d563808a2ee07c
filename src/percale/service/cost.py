"""What a Service costs a node, and how much it may: elements of the kernel's maps. `table` asks before it chooses endpoints.

Its author, who may write in one namespace, must not fill every node's memory, nor its agent's time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from percale.model.ip_family import Family
from percale.service.consistent_hash import SLOTS
from percale.service.endpoint_slices import SliceFacts
from percale.service.service_ports import PortSpec, ServiceFacts
from percale.service.strategies import MOST_SLOTS

MOST_ELEMENTS = 100_000
"""Of one Service on one node: 50,000 endpoints of a port with two addresses; 54 ports of 100 endpoints by `mh`."""
_OF_ITS_OWN = 8
"""What a chain that no other Service shares counts for."""
_LEAST = 100
"""What a port counts for at least: 1,000 ports are the most, for each is looked for among the ports of all slices."""
_OF_A_DRAW = 8
"""What an endpoint counts for that draws a number for each slot of `mh`: 30 µs."""


def too_costly(facts: ServiceFacts, slices: Iterable[SliceFacts]) -> str | None:
    """What is wrong with a Service that would cost more than it may."""
    endpoints = Counter[tuple[Family, str, str]]()
    for each in slices:
        for port in each.ports:
            endpoints[each.family, port.name, port.protocol] += len(each.states)
    elements = sum(
        max(_LEAST, _elements_of(spec, endpoints[spec.family, spec.name.port, spec.name.protocol]))
        for spec in facts.ports
    )
    if elements <= MOST_ELEMENTS:
        return None
    return (
        f"Service {facts.key}: it would take {elements} elements in each node's kernel, of {MOST_ELEMENTS} that it may, "
        "so nobody is served: split it, or use a strategy with fewer slots"
    )


def _elements_of(spec: PortSpec, endpoints: int) -> int:
    """Each address has all slots, those of this node as well where a policy is Local, and the clients that it admits."""
    slots = endpoints
    if spec.strategy.name == "mh" and endpoints:
        slots = SLOTS + _OF_A_DRAW * endpoints
    elif spec.strategy.name in ("wrr", "lc"):
        slots = max(endpoints, MOST_SLOTS) if endpoints else 0
    slots *= 2 if spec.internal_local or spec.external_local else 1
    has_chains = spec.strategy.name in ("rr", "wrr") or spec.affinity is not None
    own = _OF_ITS_OWN if has_chains else 1
    admitted = len(spec.source_ranges)
    return sum(slots + own + (admitted if vip.kind == "load-balancer" else 0) for vip in spec.vips)
