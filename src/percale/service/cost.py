"""Limits on what Services cost each node, in elements of the kernel's maps. `resolver.py` asks first.

A Service's author, who may write in one namespace, must not use up every node's memory and its agent's time: neither by one
Service nor by many of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set

from percale.model.ip_family import Family
from percale.model.meta import ObjectKey
from percale.service.consistent_hash import SLOTS
from percale.service.endpoint_slices import SliceFacts
from percale.service.service_ports import PortSpec, ServiceFacts
from percale.service.strategies import MAX_SLOTS
from percale.shared_limits import SharedLimit

MAX_ELEMENTS = 100_000
"""Of a Service on a node: 50,000 endpoints of a port with two addresses; 54 ports of 100 endpoints by `mh`."""
MAX_NAMESPACE_ELEMENTS = 4 * MAX_ELEMENTS
"""Of all Services of a namespace together."""
_OWN_CHAIN = 8
"""Weight of a chain that is not shared with other Services."""
_MIN_PORT = 100
"""Minimum for a port: 1,000 ports at most, for each is looked up among the ports of all slices."""
_HASHED_ENDPOINT = 8
"""Weight of an endpoint of `mh`, which hashes it for each slot: 30 µs."""


class ServiceCosts:
    """What each Service costs, by namespace."""

    def __init__(self) -> None:
        self._limit = SharedLimit[str | None, ObjectKey](MAX_NAMESPACE_ELEMENTS)

    def put(self, facts: ServiceFacts, slices: Iterable[SliceFacts]) -> tuple[str | None, Set[ObjectKey]]:
        """The problem of a Service that would exceed a limit, and the Services for which that is now otherwise."""
        ports = list(_costs(facts, slices))
        alone, together = sum(max(_MIN_PORT, each) for each in ports), sum(ports)
        changed = self._limit.set(facts.key.namespace, facts.key, together if alone <= MAX_ELEMENTS else 0)
        if alone > MAX_ELEMENTS:
            why = f"it would take {alone} elements in each node's kernel, of {MAX_ELEMENTS} that it may"
            return _problem(facts, why), changed
        if facts.key in self._limit.left_out(facts.key.namespace):
            why = f"the Services of its namespace would take more than {MAX_NAMESPACE_ELEMENTS} elements in each node's kernel"
            return _problem(facts, why), changed
        return None, changed

    def remove(self, key: ObjectKey) -> Set[ObjectKey]:
        """A Service was deleted; likewise."""
        return self._limit.set(key.namespace, key, 0)


def _problem(facts: ServiceFacts, why: str) -> str:
    return f"Service {facts.key}: {why}, so it is not served: split it, or use a strategy with fewer slots"


def _costs(facts: ServiceFacts, slices: Iterable[SliceFacts]) -> Iterator[int]:
    """Of each port."""
    endpoints = Counter[tuple[Family, str, str]]()
    for each in slices:
        for port in each.ports:
            endpoints[each.family, port.name, port.protocol] += len(each.states)
    for spec in facts.ports:
        yield _elements_of(spec, endpoints[spec.family, spec.name.port, spec.name.protocol])


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
