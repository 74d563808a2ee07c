"""Which Service owns a virtual address that several Services request. Called by `resolver.py`.

Cluster IPs win over load balancer addresses, and these over external IPs, which a Service's author chooses: writing another's
address there never takes it. Within a kind the older Service wins; of two created in the same second the lower uid, which no user
chooses, and without uids the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from percale.model.ip_family import Family
from percale.model.meta import ObjectKey
from percale.model.pod import PROTOCOL_NUMBERS
from percale.service.service_ports import PortName, PortSpec, Vip, VipKind

VipKey: TypeAlias = bytes
"""Family or address, protocol, port: of different length for a node port, IPv4 and IPv6."""

_PACKED_PROTOCOLS: dict[str, bytes] = {name: bytes((number,)) for name, number in PROTOCOL_NUMBERS.items()}


def vip_key(address: bytes, protocol: str, port: int) -> VipKey:
    """The key of an address."""
    return address + _PACKED_PROTOCOLS[protocol] + port.to_bytes(2)


def node_port_key(family: Family, protocol: str, port: int) -> VipKey:
    """The key of a node port."""
    return bytes((family,)) + _PACKED_PROTOCOLS[protocol] + port.to_bytes(2)


def key_of(spec: PortSpec, vip: Vip) -> VipKey:
    """The key of a service port's VIP."""
    if vip.kind == "node-port":
        return node_port_key(spec.family, spec.name.protocol, vip.port)
    return vip_key(vip.address, spec.name.protocol, vip.port)


class VipOwners:
    def __init__(self) -> None:
        self._owners: dict[VipKey, PortSpec] = {}
        self._contenders: dict[VipKey, list[PortSpec]] = {}

    def owner(self, key: VipKey) -> PortSpec | None:
        """The service port that owns it."""
        return self._owners.get(key)

    @property
    def contested(self) -> bool:
        """Whether several Services request some VIP."""
        return bool(self._contenders)

    def add(self, specs: Iterable[PortSpec]) -> set[ObjectKey]:
        """A Service requests these; returns the Services that request the same."""
        contenders: set[ObjectKey] = set()
        rank = _Ranks()
        for spec in specs:
            for vip in spec.vips:
                key = key_of(spec, vip)
                owner = self._owners.setdefault(key, spec)
                if owner is not spec:
                    self._owners[key], later = sorted((owner, spec), key=lambda each: rank(key, each))
                    self._contenders.setdefault(key, []).append(later)
                    contenders.update(self._claimants(key))
        return contenders

    def remove(self, specs: Iterable[PortSpec]) -> set[ObjectKey]:
        """A Service no longer requests them; returns the Services that may own them now."""
        successors: set[ObjectKey] = set()
        rank = _Ranks()
        for spec in specs:
            for vip in spec.vips:
                key = key_of(spec, vip)
                contenders_left = [each for each in self._contenders.pop(key, ()) if each is not spec]
                if self._owners[key] is spec:
                    del self._owners[key]
                    if contenders_left:
                        successor = min(contenders_left, key=lambda each: rank(key, each))
                        self._owners[key] = successor
                        contenders_left = [each for each in contenders_left if each is not successor]
                if contenders_left:
                    self._contenders[key] = contenders_left
                successors.update(self._claimants(key))
        return successors

    def _claimants(self, key: VipKey) -> Iterator[ObjectKey]:
        """All Services that request it."""
        for spec in self._contenders.get(key, ()):
            yield spec.key
        if key in self._owners:
            yield self._owners[key].key

    def owned_vips(self, spec: PortSpec) -> tuple[Vip, ...]:
        """The VIPs that a service port owns."""
        if not self.contested:
            return spec.vips
        mine = tuple(vip for vip in spec.vips if self._owners[key_of(spec, vip)] is spec)
        return spec.vips if len(mine) == len(spec.vips) else mine

    def lost_vips(self, spec: PortSpec) -> Iterator[tuple[Vip, PortSpec]]:
        """The VIPs that it requests, but another one owns."""
        for vip in spec.vips:
            owner = self._owners[key_of(spec, vip)]
            if owner is not spec:
                yield vip, owner


_KINDS: dict[VipKind, int] = {"cluster": 0, "load-balancer": 1, "external": 2, "node-port": 3}


class _Ranks:
    """Ranks of service ports for VIPs; each port's VIPs are read once, for there may be thousands."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[PortName, Family], dict[VipKey, VipKind]] = {}

    def __call__(self, key: VipKey, spec: PortSpec) -> tuple[int, str, PortName]:
        """The lowest rank owns the VIP."""
        which = spec.name, spec.family
        if which not in self._kinds:
            self._kinds[which] = {key_of(spec, vip): vip.kind for vip in reversed(spec.vips)}
        return _KINDS[self._kinds[which][key]], spec.age, spec.name
