"""Who has a virtual address that several Services want. Called by `table`; the resolver finds VIPs here.

A cluster IP comes before all else, then what a load balancer has given, then external IPs, which a Service's author chooses: who
writes another's address there does not get it, however old the Service is. Of one kind the older Service comes first; of two
that were made in one second the uid decides, which nobody chooses, and where there is none, the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from percale.service.node_context import Family
from percale.service.service_ports import PortName, PortSpec, Vip, VipKind

VipKey: TypeAlias = bytes
"""Family or address, protocol, port: of different length for a node port, IPv4 and IPv6."""

_PROTOCOLS = {"TCP": b"\x06", "UDP": b"\x11", "SCTP": b"\x84"}


def vip_key(address: bytes, protocol: str, port: int) -> VipKey:
    """Of an address."""
    return address + _PROTOCOLS[protocol] + port.to_bytes(2)


def node_port_key(family: Family, protocol: str, port: int) -> VipKey:
    """Of a node port."""
    return bytes((family,)) + _PROTOCOLS[protocol] + port.to_bytes(2)


def key_of(spec: PortSpec, vip: Vip) -> VipKey:
    """Of a service port's VIP."""
    if vip.kind == "node-port":
        return node_port_key(spec.family, spec.name.protocol, vip.port)
    return vip_key(vip.address, spec.name.protocol, vip.port)


class Claims:
    """All VIPs that are wanted."""

    def __init__(self) -> None:
        self._holders: dict[VipKey, PortSpec] = {}
        self._waiting: dict[VipKey, list[PortSpec]] = {}

    def holder(self, key: VipKey) -> tuple[PortSpec, Vip] | None:
        """The service port that has it, and its VIP."""
        spec = self._holders.get(key)
        return None if spec is None else (spec, next(vip for vip in spec.vips if key_of(spec, vip) == key))

    @property
    def contested(self) -> bool:
        """Some VIP is wanted by several."""
        return bool(self._waiting)

    def add(self, specs: Iterable[PortSpec]) -> set[PortSpec]:
        """A Service wants these. The service ports that want the same."""
        rivals: set[PortSpec] = set()
        for spec in specs:
            for vip in spec.vips:
                key = key_of(spec, vip)
                holder = self._holders.setdefault(key, spec)
                if holder is not spec:
                    self._holders[key], later = sorted((holder, spec), key=lambda each: _rank(key, each))
                    self._waiting.setdefault(key, []).append(later)
                    rivals.update(self._wanted(key))
        return rivals

    def remove(self, specs: Iterable[PortSpec]) -> set[PortSpec]:
        """A Service wants them no more. The service ports that may have them now."""
        heirs: set[PortSpec] = set()
        for spec in specs:
            for vip in spec.vips:
                key = key_of(spec, vip)
                waiting = [each for each in self._waiting.pop(key, ()) if each is not spec]
                if self._holders[key] is spec:
                    del self._holders[key]
                    if waiting:
                        heir = min(waiting, key=lambda each: _rank(key, each))
                        self._holders[key] = heir
                        waiting = [each for each in waiting if each is not heir]
                if waiting:
                    self._waiting[key] = waiting
                heirs.update(self._wanted(key))
        return heirs

    def _wanted(self, key: VipKey) -> Iterator[PortSpec]:
        """All who want it."""
        yield from self._waiting.get(key, ())
        if key in self._holders:
            yield self._holders[key]

    def won(self, spec: PortSpec) -> tuple[Vip, ...]:
        """The VIPs that a service port really has."""
        if not self.contested:
            return spec.vips
        mine = tuple(vip for vip in spec.vips if self._holders[key_of(spec, vip)] is spec)
        return spec.vips if len(mine) == len(spec.vips) else mine

    def lost(self, spec: PortSpec) -> Iterator[tuple[Vip, PortSpec]]:
        """What it wants, but another one has."""
        for vip in spec.vips:
            holder = self._holders[key_of(spec, vip)]
            if holder is not spec:
                yield vip, holder


_KINDS: dict[VipKind, int] = {"cluster": 0, "load-balancer": 1, "external": 2, "node-port": 3}


def _rank(key: VipKey, spec: PortSpec) -> tuple[int, str, PortName]:
    """The lowest one has it."""
    kind = next(vip.kind for vip in spec.vips if key_of(spec, vip) == key)
    return _KINDS[kind], spec.age, spec.name
