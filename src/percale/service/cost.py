"""A limit on what one Service costs each node, in elements of the kernel's maps. `resolver.py` checks it first.

A Service's author, who may write in one namespace, must not use up every node's memory and its agent's time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from percale.model.ip_family import Family
from percale.service.consistent_hash import SLOTS
from percale.service.endpoint_slices import SliceFacts
from percale.service.service_ports import PortSpec, ServiceFacts
from percale.service.strategies import MAX_SLOTS

MAX_ELEMENTS = 100_000
"""Of a Service on a node: 50,000 endpoints of a port with two addresses; 54 ports of 100 endpoints by `mh`."""
_OWN_CHAIN = 8
"""Weight of a chain that is not shared with other Services."""
_MIN_PORT = 100
"""Minimum for a port: 1,000 ports at most, for each is looked up among the ports of all slices."""
_HASHED_ENDPOINT = 8
"""Weight of an endpoint of `mh`, which hashes it for each slot: 30 µs."""


def cost_problem(facts: ServiceFacts, slices: Iterable[SliceFacts]) -> str | None:
    """The problem of a Service that would exceed the limit."""
    endpoints = Counter[tuple[Family, str, str]]()
    for each in slices:
        for port in each.ports:
            endpoints[each.family, port.name, port.protocol] += len(each.states)
    elements = sum(
        max(_MIN_PORT, _elements_of(spec, endpoints[spec.family, spec.name.port, spec.name.protocol]))
        for spec in facts.ports
    )
    if elements <= MAX_ELEMENTS:
        return None
    return (
        f"Service {facts.key}: it would take {elements} elements in each node's kernel, of {MAX_ELEMENTS} that it may, "
        "so it is not served: split it, or use a strategy with fewer slots"
    )


def _elements_of(spec: PortSpec, endpoints: int) -> int:
    """Each address has all slots, again those of this node where a policy is Local, and its source ranges."""
    slots = endpoints
    if spec.strategy.name == "mh" and endpoints:
        slots = SLOTS + _HASHED_ENDPOINT * endpoints
    elif spec.strategy.name in ("wrr", "lc"):
        slots = max(endpoints, MAX_SLOTS) if endpoints else 0
    slots *= 2 if spec.internal_local or spec.external_local else 1
    has_chains = spec.strategy.name in ("rr", "wrr") or spec.affinity is not None
    chain = _OWN_CHAIN if has_chains else 1
    ranges = len(spec.source_ranges)
    return sum(slots + chain + (ranges if vip.kind == "load-balancer" else 0) for vip in spec.vips)
