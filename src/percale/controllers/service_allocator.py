"""Cluster IPs and node ports, given as the API server gives them. Called by the lab's admission of Services and by `playing`.

As there, the lower part of each range is left to those who ask for a number of their own. Unlike there, no chance: the lowest
free number of the upper part, then of the lower one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from percale.model.addresses import Network, is_address
from percale.model.field_path import FieldPath
from percale.model.service import Service, ServicePort, ServiceSpec
from percale.model.validation.field_errors import FieldError, FieldErrors, invalid

FamilyName: TypeAlias = Literal["IPv4", "IPv6"]

NODE_PORTS = (30000, 32767)


class _Pool:
    """Numbers from `first` to `last`, each given once."""

    def __init__(self, first: int, last: int, lower: int) -> None:
        """`lower`: how many at the beginning are given only when nothing else is left."""
        self.first, self.last = first, last
        self._upper = first + lower
        self._taken: set[int] = set()
        self._next = self._upper

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last

    def is_taken(self, number: int) -> bool:
        return number in self._taken

    def take(self, number: int) -> None:
        self._taken.add(number)

    def free(self, number: int) -> None:
        self._taken.discard(number)
        if self._upper <= number < self._next:
            self._next = number

    def give(self, given: _Given) -> int | None:
        """The lowest free number; None: all are taken. It is noted in `given`."""
        while self._next in self._taken:
            self._next += 1
        number: int | None = self._next
        if self._next > self.last:
            number = next((each for each in range(self.first, self._upper) if each not in self._taken), None)
        if number is not None:
            self._taken.add(number)
            given.append((self, number))
        return number


_Given: TypeAlias = list[tuple[_Pool, int]]


class _FullError(Exception):
    """Nothing is left to give."""

    def __init__(self, error: FieldError) -> None:
        self.error = error
        super().__init__(str(error))


def _lower_part(size: int, parts: int, most: int) -> int:
    """Source: calculateRangeOffset of the API server's allocators."""
    return 0 if size <= 16 else min(max(16, size // parts), most)


def _pool_of(network: Network) -> _Pool:
    """Not the network's own address, and in IPv4 not the broadcast address."""
    first = int(network.network_address) + 1
    last = int(network.broadcast_address) - (1 if network.version == 4 else 0)
    return _Pool(first, last, _lower_part(network.num_addresses, 16, 256))


class Admitted(Struct, frozen=True):
    """A Service with all that it needs, or what is wrong with what it asks for."""

    service: Service
    errors: tuple[FieldError, ...] = ()


class Allocations:
    """What the Services of a cluster have."""

    def __init__(self, cidrs: Sequence[Network], services: Iterable[Service] = ()) -> None:
        """`cidrs`: one for each address family, that of Services which do not ask for a family first."""
        self._cidrs: dict[FamilyName, Network] = {_family(cidr.version == 6): cidr for cidr in reversed(cidrs)}
        self._order: tuple[FamilyName, ...] = tuple(dict.fromkeys(_family(cidr.version == 6) for cidr in cidrs))
        self._pools = {family: _pool_of(cidr) for family, cidr in self._cidrs.items()}
        first, last = NODE_PORTS
        self._ports = _Pool(first, last, _lower_part(last - first + 1, 32, 128))
        for service in services:
            self._take(service)

    def admit(self, service: Service, old: Service | None = None) -> Admitted:
        """A new Service, or a changed one, which keeps what it had. With errors, nothing is taken."""
        errors: tuple[FieldError, ...] = ()
        if old is not None:
            self.release(old)
            service = _kept(service, old)
            errors = tuple(_moved(service.spec, old.spec))
        errors = errors or tuple(self._errors(service))
        if not errors:
            self._take(service)
            given: _Given = []
            try:
                return Admitted(self._completed(service, given))
            except _FullError as full:
                errors = (full.error,)
                for pool, number in given:
                    pool.free(number)
                self.release(service)
        if old is not None:
            self._take(old)
        return Admitted(service, errors)

    def complete(self, services: Sequence[Service]) -> list[Service]:
        """Services of manifests, all at once; who asks in vain stays as it is."""
        return [each.service for each in self.admit_all(services)]

    def admit_all(self, services: Sequence[Service]) -> list[Admitted]:
        """In their order, but those that ask for something come first, so that nobody else is given it."""
        order = sorted(services, key=lambda each: not _asked(each))
        admitted = {service.key: self.admit(service) for service in order}
        return [admitted[service.key] for service in services]

    def release(self, service: Service) -> None:
        """It is gone: what it had may be given again."""
        self._each(service, _Pool.free)

    def _take(self, service: Service) -> None:
        self._each(service, _Pool.take)

    def _each(self, service: Service, act: Callable[[_Pool, int], None]) -> None:
        for _, text in _cluster_ips(service.spec):
            pool = self._pools.get(_family(":" in text))
            if pool is not None:
                act(pool, int(ip_address(text)))
        for _, number in _node_ports(service.spec):
            act(self._ports, number)

    # What may be asked for

    def _errors(self, service: Service) -> FieldErrors:
        spec = service.spec
        yield from self._family_errors(spec)
        ips = [text for _, text in _cluster_ips(spec)]
        for text in ips:
            family = _family(":" in text)
            said = self._ip_complaint(family, text)
            if said:
                yield invalid(("spec", "clusterIPs"), ips, f"failed to allocate IP {text}: {said}")
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

    def _ip_complaint(self, family: FamilyName, text: str) -> str:
        number, pool = int(ip_address(text)), self._pools.get(family)
        if pool is None or number not in pool:
            cidr = self._cidrs.get(family) or self._cidrs[self._order[0]]
            return f"the provided IP ({text}) is not in the valid range. The range of valid IPs is {cidr}"
        return "provided IP is already allocated" if pool.is_taken(number) else ""

    def _family_errors(self, spec: ServiceSpec) -> FieldErrors:
        for index, family in enumerate(spec.ipFamilies):
            if family not in self._pools:
                yield invalid(("spec", "ipFamilies", index), family, "not configured on this cluster")
        if spec.ipFamilyPolicy == "RequireDualStack" and len(self._pools) < 2:
            yield invalid(
                ("spec", "ipFamilyPolicy"),
                spec.ipFamilyPolicy,
                "this cluster is not configured for dual-stack services",
            )

    # What is given

    def _completed(self, service: Service, given: _Given) -> Service:
        """Raises _FullError; `given` has what was given until then."""
        spec = service.spec
        if spec.type == "ExternalName":
            return service
        families = self._families(spec)
        policy = spec.ipFamilyPolicy or "SingleStack"
        if spec.clusterIP == "None":
            ips: tuple[str, ...] = ("None",)
        else:
            asked = {_family(":" in text): text for _, text in _cluster_ips(spec)}
            ips = tuple(asked.get(family) or self._give_ip(family, given) for family in families)
        return replace(
            service,
            spec=replace(
                self._with_ports(spec, given),
                clusterIP=ips[0],
                clusterIPs=ips,
                ipFamilies=families,
                ipFamilyPolicy=policy,
                internalTrafficPolicy=spec.internalTrafficPolicy or "Cluster",
            ),
        )

    def _families(self, spec: ServiceSpec) -> tuple[FamilyName, ...]:
        asked = spec.ipFamilies or tuple(dict.fromkeys(_family(":" in text) for _, text in _cluster_ips(spec)))
        if spec.ipFamilyPolicy in ("PreferDualStack", "RequireDualStack"):
            return tuple(dict.fromkeys((*asked, *self._order)))
        return asked or self._order[:1]

    def _give_ip(self, family: FamilyName, given: _Given) -> str:
        number = self._pools[family].give(given)
        if number is None:
            raise _FullError(invalid(("spec", "clusterIPs"), [], "failed to allocate a serviceIP: range is full"))
        base = self._cidrs[family].network_address
        return str(base + (number - int(base)))

    def _with_ports(self, spec: ServiceSpec, given: _Given) -> ServiceSpec:
        if spec.type not in ("NodePort", "LoadBalancer"):
            return spec
        external = spec.externalTrafficPolicy or "Cluster"
        spec = replace(spec, externalTrafficPolicy=external)
        if spec.type == "LoadBalancer":
            wants = spec.allocateLoadBalancerNodePorts is not False
            spec = replace(spec, allocateLoadBalancerNodePorts=wants)
            if external == "Local" and not spec.healthCheckNodePort:
                spec = replace(spec, healthCheckNodePort=self._give_port(("spec", "healthCheckNodePort"), given))
            if not wants:
                return spec
        ports: list[ServicePort] = []
        for index, port in enumerate(spec.ports):
            number = port.nodePort or next((each.nodePort for each in ports if _are_twins(each, port)), None)
            number = number or self._give_port(("spec", "ports", index, "nodePort"), given)
            ports.append(replace(port, nodePort=number))
        return replace(spec, ports=tuple(ports))

    def _give_port(self, path: FieldPath, given: _Given) -> int:
        number = self._ports.give(given)
        if number is None:
            raise _FullError(invalid(path, 0, "failed to allocate a nodePort: range is full"))
        return number


def _family(is_ipv6: bool) -> FamilyName:
    return "IPv6" if is_ipv6 else "IPv4"


def _are_twins(one: ServicePort, other: ServicePort) -> bool:
    """TCP and UDP of one number share a node port."""
    return one.port == other.port and one.protocol != other.protocol


def _cluster_ips(spec: ServiceSpec) -> Iterator[tuple[int, str]]:
    """Those that are asked for, each with its index."""
    if spec.type != "ExternalName":
        for index, text in enumerate(spec.clusterIPs or ((spec.clusterIP,) if spec.clusterIP else ())):
            if is_address(text):
                yield index, text


def _node_ports(spec: ServiceSpec) -> Iterator[tuple[FieldPath, int]]:
    """Those that are asked for; a number that two protocols share comes once."""
    if spec.type not in ("NodePort", "LoadBalancer"):
        return
    seen = set()
    for index, port in enumerate(spec.ports):
        if port.nodePort and port.nodePort not in seen:
            seen.add(port.nodePort)
            yield ("spec", "ports", index, "nodePort"), port.nodePort
    if spec.healthCheckNodePort:
        yield ("spec", "healthCheckNodePort"), spec.healthCheckNodePort


def _asked(service: Service) -> bool:
    return any(True for _ in _cluster_ips(service.spec)) or any(True for _ in _node_ports(service.spec))


def _kept(new: Service, old: Service) -> Service:
    """A change that does not name its addresses and ports keeps them."""
    spec, had = new.spec, old.spec
    if "ExternalName" in (spec.type, had.type):
        return new
    if not spec.clusterIP and not spec.clusterIPs:
        spec = replace(
            spec, clusterIP=had.clusterIP, clusterIPs=had.clusterIPs, ipFamilies=spec.ipFamilies or had.ipFamilies
        )
    if spec.type in ("NodePort", "LoadBalancer"):
        spec = replace(spec, ports=tuple(_kept_ports(spec.ports, had.ports)))
        if spec.type == "LoadBalancer" and spec.externalTrafficPolicy == "Local" and not spec.healthCheckNodePort:
            spec = replace(spec, healthCheckNodePort=had.healthCheckNodePort)
    return replace(new, spec=spec)


def _kept_ports(ports: Sequence[ServicePort], had: Sequence[ServicePort]) -> Iterator[ServicePort]:
    """As `kubectl apply` finds them again, by number, and as the API server does, by name; each node port goes to one."""
    by_number = {(port.port, port.protocol): port.nodePort for port in had}
    by_name = {(port.name, port.protocol): port.nodePort for port in had}
    taken = {(port.nodePort, port.protocol) for port in ports}
    for port in ports:
        former = by_number.get((port.port, port.protocol)) or by_name.get((port.name, port.protocol))
        if port.nodePort or not former or (former, port.protocol) in taken:
            yield port
        else:
            taken.add((former, port.protocol))
            yield replace(port, nodePort=former)


def _moved(new: ServiceSpec, old: ServiceSpec) -> FieldErrors:
    """Addresses last as long as their Service. Source: validateUpgradeDowngradeClusterIPs."""
    if "ExternalName" in (new.type, old.type):
        return
    ips = new.clusterIPs or (new.clusterIP or "",)
    for index, (now, was) in enumerate(zip(ips, old.clusterIPs, strict=False)):
        if now != was:
            yield invalid(("spec", "clusterIPs", index), list(ips), "may not change once set")
