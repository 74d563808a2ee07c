"""Selects the underlay's interface and addresses, as flannel does: a pure function of the kernel's state.

--iface (in order) ─▶ --iface-regex (in order) ─▶ --iface-can-reach ─▶ the default route's interface
address: the one named ─▶ global before link-local, permanent before temporary ─▶ the oldest: who adds one moves no node
public address: --public-ip ─▶ the address
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Struct

from percale.backend.protocol import LocalFamily, LocalNode
from percale.errors import BadConfig
from percale.kernel.protocol import HostRoute, Interface, Underlay
from percale.model.addresses import IPAddress, IPInterface, IPNetwork
from percale.model.ip_family import Family
from percale.model.subnet_lease import NodeSubnets


class Found(NamedTuple):
    """An interface and an address: its own, or the public one."""

    interface: Interface
    address: IPAddress


class InterfaceOptions(Struct, frozen=True):
    """The flags, as given."""

    iface: tuple[str, ...] = ()
    iface_regex: tuple[str, ...] = ()
    can_reach: str | None = None
    public_ips: Mapping[Family, str | None] = {}


class UnderlayAddress(Struct, frozen=True):
    """This node's interfaces and public addresses in the underlay. Equal means that nothing changed for the backend."""

    families: Mapping[Family, Found]
    on_link: frozenset[IPNetwork]


def select_interface(
    options: InterfaceOptions, underlay: Underlay, families: Iterable[Family] = Family
) -> UnderlayAddress:
    """The interfaces and addresses for these families. Raises BadConfig, which lists the candidates."""
    found = {family: _choose(options, underlay, family) for family in families}
    interfaces = tuple(each.interface for each in found.values())
    public = {family: Found(each.interface, _public(options, family, each)) for family, each in found.items()}
    return UnderlayAddress(public, on_link(underlay, interfaces))


def local_node(
    name: str,
    underlay_address: UnderlayAddress,
    subnets: NodeSubnets,
    macs: Mapping[str, str] = MappingProxyType({}),
    networks: tuple[IPNetwork, ...] = (),
) -> LocalNode:
    """The node with its subnets, and the MACs of devices that were taken over, for its backend."""
    located = underlay_address.families
    first = next(iter(located.values())).interface
    families = {}
    for subnet in subnets:
        family = Family(subnet.version)
        interface, public_ip = located.get(family, (first, None))
        families[family] = LocalFamily(subnet, interface, public_ip)
    return LocalNode(name, families, underlay_address.on_link, macs, networks)


def on_link(underlay: Underlay, interfaces: Iterable[Interface]) -> frozenset[IPNetwork]:
    """The networks that these interfaces reach without a gateway, without parts that a more specific route sends to one."""
    names = {interface.name for interface in interfaces}
    routes = [(route.dst, route.dev in names and route.via is None) for route in underlay.routes]
    routes += [(address.network, True) for interface in interfaces for address in interface.addresses]
    networks: set[IPNetwork] = set()
    for dst, direct in sorted(routes, key=lambda item: (item[0].prefixlen, item[1])):
        if direct:
            networks.add(dst)
        else:
            networks = {part for network in networks for part in _without(network, dst)}
    return frozenset(networks)


def address_of(interface: Interface, version: int) -> IPAddress | None:
    """The interface's best address of an IP version."""
    addresses = [address for address in interface.addresses if address.version == version]
    best = min(addresses, key=lambda address: (address.is_link_local, address in interface.temporary), default=None)
    return best.ip if best is not None else None


def tunnel_source(local: LocalFamily) -> IPAddress | None:
    """The address that this node's tunnels send from: the public one, unless a NAT in front has that. None: no underlay yet."""
    public = local.public_ip
    if public is None or any(public == address.ip for address in local.interface.addresses):
        return public
    return address_of(local.interface, local.subnet.version) or public


def _choose(options: InterfaceOptions, underlay: Underlay, family: Family) -> Found:
    """The interface and its address for one IP family, by the first option that is set."""
    if options.iface or options.iface_regex:
        named = (found for option in options.iface for found in _named(option, underlay, family))
        matching = (found for option in options.iface_regex for found in _matching(option, underlay, family))
        first = next(named, None) or next(matching, None)
        if first is None:
            wanted = " or ".join((*options.iface, *options.iface_regex))
            raise _unfound(f"no interface with an IPv{family} address is {wanted}", underlay)
        return first
    if options.can_reach is not None:
        target = _parsed("--iface-can-reach", options.can_reach)
        return _via_route(_route_to(target, underlay), f"route to {target}", underlay, family)
    return _by_default(underlay, family)


def _named(option: str, underlay: Underlay, family: Family) -> Iterator[Found]:
    """By name, or by one of its addresses, which is used when it is of this version."""
    for interface in underlay.interfaces:
        by_address = [mine.ip for mine in interface.addresses if str(mine.ip) == option]
        best = address_of(interface, family)
        if best is not None and (by_address or interface.name == option):
            yield Found(interface, next((ip for ip in by_address if ip.version == family), best))


def _matching(option: str, underlay: Underlay, family: Family) -> Iterator[Found]:
    """By the addresses of all interfaces, then by their names."""
    try:
        pattern = re.compile(option)
    except re.error as error:
        raise BadConfig(f'--iface-regex: "{option}" is not a regular expression: {error}') from error
    for interface in underlay.interfaces:
        for mine in interface.addresses:
            if mine.version == family and pattern.search(str(mine.ip)):
                yield Found(interface, mine.ip)
    for interface in underlay.interfaces:
        best = address_of(interface, family)
        if best is not None and pattern.search(interface.name):
            yield Found(interface, best)


def _by_default(underlay: Underlay, family: Family) -> Found:
    """The interface of the default route; without one that of the other family's, if it has a global address of this one."""
    lowest = _lowest(route for route in underlay.routes if route.dst == family.everything)
    other = _lowest(route for route in underlay.routes if route.dst.prefixlen == 0 and route.dst.version != family)
    if lowest is None and other is not None:
        found = _via_route(other, "default route", underlay, family)
        if not found.address.is_link_local:
            return found
    return _via_route(lowest, f"IPv{family} default route", underlay, family)


def _lowest(routes: Iterable[HostRoute]) -> HostRoute | None:
    return min(routes, key=lambda route: route.metric, default=None)


def _via_route(route: HostRoute | None, called: str, underlay: Underlay, family: Family) -> Found:
    """The interface that a route leaves by."""
    if route is None:
        raise _unfound(f"there is no {called}", underlay)
    for interface in underlay.interfaces:
        best = address_of(interface, family)
        if interface.name == route.dev and best is not None:
            return Found(interface, best)
    raise _unfound(f"the {called} leaves by {route.dev}, which has no IPv{family} address", underlay)


def _route_to(target: IPAddress, underlay: Underlay) -> HostRoute | None:
    """The longest match; of equal ones the one with the lowest metric."""
    matching = [route for route in underlay.routes if route.dst.version == target.version and target in route.dst]
    return min(matching, key=lambda route: (-route.dst.prefixlen, route.metric), default=None)


def _public(options: InterfaceOptions, family: Family, found: Found) -> IPAddress:
    text = options.public_ips.get(family)
    if text is None:
        return found.address
    flag = "--public-ip" if family is Family.IPV4 else "--public-ipv6"
    public = _parsed(flag, text)
    if public.version != family:
        raise BadConfig(f"{flag}: {public} is of the other IP version")
    return public


def _parsed(flag: str, text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError as error:
        raise BadConfig(f'{flag}: "{text}" is not an address') from error


def _without(network: IPNetwork, hole: IPNetwork) -> Iterator[IPNetwork]:
    """The network without `hole`."""
    if network.version != hole.version or not network.overlaps(hole):
        yield network
    elif network.prefixlen < hole.prefixlen:
        yield from network.address_exclude(hole)  # type: ignore[arg-type]  # both are of one version


def _unfound(what: str, underlay: Underlay) -> BadConfig:
    """The error that lists the candidates."""
    return BadConfig(
        f"cannot choose the interface between nodes: {what}", hint=f"choose with --iface: {_candidates(underlay)}"
    )


def _candidates(underlay: Underlay) -> str:
    def formatted(addresses: Iterable[IPInterface]) -> str:
        return ", ".join(str(address.ip) for address in addresses)

    listed = [
        f"{interface.name} ({formatted(interface.addresses)})"
        for interface in underlay.interfaces
        if interface.name != "lo" and interface.addresses
    ]
    return "; ".join(listed) or "no interface has an address"
