"""Allocates cluster IPs and node ports as the API server does. Called by `admission`, `services` and `offline`.

As there, the lower part of each range is for Services that request a number. Unlike there, allocation is not random: the lowest
free number of the upper part, then of the lower one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from types import MappingProxyType
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from percale.model.addresses import IPNetwork, is_address
from percale.model.field_path import FieldPath
from percale.model.ip_family import Family, FamilyName
from percale.model.meta import ObjectKey
from percale.model.service import Service, ServicePort, ServiceSpec
from percale.model.validation.field_errors import FieldError, FieldErrors, invalid

NODE_PORTS = (30000, 32767)


class _Range:
    """Numbers from `first` to `last`, each allocated once."""

    def __init__(self, first: int, last: int, reserved: int) -> None:
        """`reserved`: how many at the beginning are allocated only when nothing else is free."""
        self.first, self.last = first, last
        self._first_dynamic = first + reserved
        self._taken: set[int] = set()
        self._next = self._first_dynamic

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last

    def is_taken(self, number: int) -> bool:
        return number in self._taken

    def occupy(self, number: int) -> None:
        self._taken.add(number)

    def release(self, number: int) -> None:
        self._taken.discard(number)
        if self._first_dynamic <= number < self._next:
            self._next = number

    def allocate(self, allocated: _Allocated) -> int | None:
        """The lowest free number, also recorded in `allocated`; None: all are taken."""
        while self._next in self._taken:
            self._next += 1
        number: int | None = self._next
        if self._next > self.last:
            number = next((each for each in range(self.first, self._first_dynamic) if each not in self._taken), None)
        if number is not None:
            self._taken.add(number)
            allocated.append((self, number))
        return number


_Allocated: TypeAlias = list[tuple[_Range, int]]


class _RangeFullError(Exception):
    """All numbers of a range are taken."""

    def __init__(self, error: FieldError) -> None:
        self.error = error
        super().__init__(str(error))


def _reserved_size(size: int, parts: int, maximum: int) -> int:
    """Source: calculateRangeOffset of the API server's allocators."""
    return 0 if size <= 16 else min(max(16, size // parts), maximum)


def _address_range(network: IPNetwork) -> _Range:
    """Without the network's own address and IPv4's broadcast address."""
    first = int(network.network_address) + 1
    last = int(network.broadcast_address) - (1 if network.version == 4 else 0)
    return _Range(first, last, _reserved_size(network.num_addresses, 16, 256))


class AdmissionResult(Struct, frozen=True):
    """A Service with its addresses and ports, or the errors of what it requests."""

    service: Service
    errors: tuple[FieldError, ...] = ()


class Allocations:
    """Cluster IPs and node ports in use in a cluster."""

    def __init__(self, cidrs: Sequence[IPNetwork], services: Iterable[Service] = ()) -> None:
        """`cidrs`: one for each address family, the default family first."""
        self._cidrs: dict[FamilyName, IPNetwork] = {Family(cidr.version).kubernetes: cidr for cidr in reversed(cidrs)}
        self._order: tuple[FamilyName, ...] = tuple(dict.fromkeys(Family(cidr.version).kubernetes for cidr in cidrs))
        self._ranges = {family: _address_range(cidr) for family, cidr in self._cidrs.items()}
        first, last = NODE_PORTS
        self._ports = _Range(first, last, _reserved_size(last - first + 1, 32, 128))
        for service in services:
            self._take(service)

    def admit(self, service: Service, old: Service | None = None) -> AdmissionResult:
        """A new Service, or a changed one, which keeps its addresses and ports. With errors, nothing is allocated."""
        errors: tuple[FieldError, ...] = ()
        if old is not None:
            self.release(old)
            service = _with_old_addresses(service, old)
            errors = tuple(_changed_addresses(service.spec, old.spec))
        errors = errors or tuple(self._errors(service))
        if not errors:
            self._take(service)
            allocated: _Allocated = []
            try:
                return AdmissionResult(self._with_addresses(service, allocated))
            except _RangeFullError as full:
                errors = (full.error,)
                for range_, number in allocated:
                    range_.release(number)
                self.release(service)
        if old is not None:
            self._take(old)
        return AdmissionResult(service, errors)

    def complete(self, services: Sequence[Service]) -> list[Service]:
        """Services of manifests, all at once; those with errors stay as they are."""
        return [each.service for each in self.admit_all(services)]

    def admit_all(
        self, services: Sequence[Service], old: Mapping[ObjectKey, Service] = MappingProxyType({})
    ) -> list[AdmissionResult]:
        """In their order. Those that request addresses or ports are admitted first, so that no other Service gets them."""
        order = sorted(services, key=lambda each: not _requests_any(each))
        admitted = {service.key: self.admit(service, old.get(service.key)) for service in order}
        return [admitted[service.key] for service in services]

    def release(self, service: Service) -> None:
        """It is deleted: its addresses and ports are free."""
        self._for_each(service, _Range.release)

    def _take(self, service: Service) -> None:
        self._for_each(service, _Range.occupy)

    def _for_each(self, service: Service, action: Callable[[_Range, int], None]) -> None:
        for _, text in _cluster_ips(service.spec):
            range_ = self._ranges.get(_family(":" in text))
            if range_ is not None:
                action(range_, int(ip_address(text)))
        for _, number in _node_ports(service.spec):
            action(self._ports, number)

    # Validation of requests

    def _errors(self, service: Service) -> FieldErrors:
        spec = service.spec
        yield from self._family_errors(spec)
        ips = [text for _, text in _cluster_ips(spec)]
        for text in ips:
            family = _family(":" in text)
            error = self._ip_error(family, text)
            if error:
                yield invalid(("spec", "clusterIPs"), ips, f"failed to allocate IP {text}: {error}")
        for path, number in _node_ports(spec):
            if number not in self._ports:
                first, last = NODE_PORTS
                yield invalid(
                    path,
                    number,
                    f"provided port is not in the valid range. The range of valid ports is {first}-{last}",
                )
            elif self._ports.is_taken(number):
                yield invalid(path, number, "provided port is already allocated")

    def _ip_error(self, family: FamilyName, text: str) -> str:
        number, range_ = int(ip_address(text)), self._ranges.get(family)
        if range_ is None or number not in range_:
            cidr = self._cidrs.get(family) or self._cidrs[self._order[0]]
            return f"the provided IP ({text}) is not in the valid range. The range of valid IPs is {cidr}"
        return "provided IP is already allocated" if range_.is_taken(number) else ""

    def _family_errors(self, spec: ServiceSpec) -> FieldErrors:
        for index, family in enumerate(spec.ipFamilies):
            if family not in self._ranges:
                yield invalid(("spec", "ipFamilies", index), family, "not configured on this cluster")
        if spec.ipFamilyPolicy == "RequireDualStack" and len(self._ranges) < 2:
            yield invalid(
                ("spec", "ipFamilyPolicy"),
                spec.ipFamilyPolicy,
                "this cluster is not configured for dual-stack services",
            )

    # Allocation

    def _with_addresses(self, service: Service, allocated: _Allocated) -> Service:
        """Raises _RangeFullError; `allocated` has what was allocated before."""
        spec = service.spec
        if spec.type == "ExternalName":
            return service
        families = self._families(spec)
        policy = spec.ipFamilyPolicy or "SingleStack"
        if spec.clusterIP == "None":
            ips: tuple[str, ...] = ("None",)
        else:
            requested = {_family(":" in text): text for _, text in _cluster_ips(spec)}
            ips = tuple(requested.get(family) or self._allocate_ip(family, allocated) for family in families)
        return replace(
            service,
            spec=replace(
                self._with_node_ports(spec, allocated),
                clusterIP=ips[0],
                clusterIPs=ips,
                ipFamilies=families,
                ipFamilyPolicy=policy,
                internalTrafficPolicy=spec.internalTrafficPolicy or "Cluster",
            ),
        )

    def _families(self, spec: ServiceSpec) -> tuple[FamilyName, ...]:
        requested = spec.ipFamilies or tuple(dict.fromkeys(_family(":" in text) for _, text in _cluster_ips(spec)))
        if spec.ipFamilyPolicy in ("PreferDualStack", "RequireDualStack"):
            return tuple(dict.fromkeys((*requested, *self._order)))
        return requested or self._order[:1]

    def _allocate_ip(self, family: FamilyName, allocated: _Allocated) -> str:
        number = self._ranges[family].allocate(allocated)
        if number is None:
            raise _RangeFullError(invalid(("spec", "clusterIPs"), [], "failed to allocate a serviceIP: range is full"))
        base = self._cidrs[family].network_address
        return str(base + (number - int(base)))

    def _with_node_ports(self, spec: ServiceSpec, allocated: _Allocated) -> ServiceSpec:
        if spec.type not in ("NodePort", "LoadBalancer"):
            return spec
        external = spec.externalTrafficPolicy or "Cluster"
        spec = replace(spec, externalTrafficPolicy=external)
        if spec.type == "LoadBalancer":
            wants = spec.allocateLoadBalancerNodePorts is not False
            spec = replace(spec, allocateLoadBalancerNodePorts=wants)
            if external == "Local" and not spec.healthCheckNodePort:
                spec = replace(
                    spec, healthCheckNodePort=self._allocate_port(("spec", "healthCheckNodePort"), allocated)
                )
            if not wants:
                return spec
        ports: list[ServicePort] = []
        for index, port in enumerate(spec.ports):
            number = port.nodePort or next((each.nodePort for each in ports if _share_node_port(each, port)), None)
            number = number or self._allocate_port(("spec", "ports", index, "nodePort"), allocated)
            ports.append(replace(port, nodePort=number))
        return replace(spec, ports=tuple(ports))

    def _allocate_port(self, path: FieldPath, allocated: _Allocated) -> int:
        number = self._ports.allocate(allocated)
        if number is None:
            raise _RangeFullError(invalid(path, 0, "failed to allocate a nodePort: range is full"))
        return number


def _family(is_ipv6: bool) -> FamilyName:
    return "IPv6" if is_ipv6 else "IPv4"


def _share_node_port(one: ServicePort, other: ServicePort) -> bool:
    """TCP and UDP ports of one number share a node port."""
    return one.port == other.port and one.protocol != other.protocol


def _cluster_ips(spec: ServiceSpec) -> Iterator[tuple[int, str]]:
    """Requested ones, each with its index."""
    if spec.type != "ExternalName":
        for index, text in enumerate(spec.clusterIPs or ((spec.clusterIP,) if spec.clusterIP else ())):
            if is_address(text):
                yield index, text


def _node_ports(spec: ServiceSpec) -> Iterator[tuple[FieldPath, int]]:
    """Requested ones; a number that two protocols share comes once."""
    if spec.type not in ("NodePort", "LoadBalancer"):
        return
    seen = set()
    for index, port in enumerate(spec.ports):
        if port.nodePort and port.nodePort not in seen:
            seen.add(port.nodePort)
            yield ("spec", "ports", index, "nodePort"), port.nodePort
    if spec.healthCheckNodePort:
        yield ("spec", "healthCheckNodePort"), spec.healthCheckNodePort


def _requests_any(service: Service) -> bool:
    return any(True for _ in _cluster_ips(service.spec)) or any(True for _ in _node_ports(service.spec))


def _with_old_addresses(new: Service, old: Service) -> Service:
    """An update without addresses and ports keeps the old ones."""
    spec, old_spec = new.spec, old.spec
    if "ExternalName" in (spec.type, old_spec.type):
        return new
    if not spec.clusterIP and not spec.clusterIPs:
        spec = replace(
            spec,
            clusterIP=old_spec.clusterIP,
            clusterIPs=old_spec.clusterIPs,
            ipFamilies=spec.ipFamilies or old_spec.ipFamilies,
        )
    if spec.type in ("NodePort", "LoadBalancer"):
        spec = replace(spec, ports=tuple(_with_old_node_ports(spec.ports, old_spec.ports)))
        if spec.type == "LoadBalancer" and spec.externalTrafficPolicy == "Local" and not spec.healthCheckNodePort:
            spec = replace(spec, healthCheckNodePort=old_spec.healthCheckNodePort)
    return replace(new, spec=spec)


def _with_old_node_ports(ports: Sequence[ServicePort], old: Sequence[ServicePort]) -> Iterator[ServicePort]:
    """Matched by number, as `kubectl apply` does, and by name, as the API server does; each node port is used once."""
    by_number = {(port.port, port.protocol): port.nodePort for port in old}
    by_name = {(port.name, port.protocol): port.nodePort for port in old}
    taken = {(port.nodePort, port.protocol) for port in ports}
    for port in ports:
        old_port = by_number.get((port.port, port.protocol)) or by_name.get((port.name, port.protocol))
        if port.nodePort or not old_port or (old_port, port.protocol) in taken:
            yield port
        else:
            taken.add((old_port, port.protocol))
            yield replace(port, nodePort=old_port)


def _changed_addresses(new: ServiceSpec, old: ServiceSpec) -> FieldErrors:
    """Cluster IPs are immutable. Source: validateUpgradeDowngradeClusterIPs."""
    if "ExternalName" in (new.type, old.type):
        return
    ips = new.clusterIPs or (new.clusterIP or "",)
    for index, (now, was) in enumerate(zip(ips, old.clusterIPs, strict=False)):
        if now != was:
            yield invalid(("spec", "clusterIPs", index), list(ips), "may not change once set")
