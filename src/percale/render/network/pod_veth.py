"""A pod's veth pair and addresses as kernel objects, in its namespace and on the host. Called by `cni/attachments.py`.

    routed   pod eth0 10.244.1.7/32 ── default via 169.254.1.1 ──▶ pcl… (no address)      host: 10.244.1.7/32 dev pcl…
    bridge   pod eth0 10.244.1.7/24 ── default via 10.244.1.1 ───▶ pcl… ─ cni0 10.244.1.1/24, as flannel's

Neighbours are permanent on both sides of a routed pair, so there is no ARP: the gateway's addresses exist nowhere, only their
MAC does. Bandwidth limits of both directions are enforced on the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.ipam.address_pool import gateway
from percale.model.addresses import IPAddress, IPInterface, IPNetwork
from percale.model.ip_family import Family
from percale.model.subnet_lease import NodeSubnets
from percale.render.link_kinds import Bridge, Ifb, Veth, VethPeer
from percale.render.network.base_chains import POD_DEVICE_PREFIX
from percale.render.network.elements import Element
from percale.render.objects import Address, KernelObject, Link, Neighbour, Redirect, Route, Shaper, Sysctl

Wiring: TypeAlias = Literal["routed", "bridge"]

HOST_MAC = "ee:ee:ee:ee:ee:ee"
"""Of every routed pod's host device: it is the pod's gateway's, so it must never change; pairs share no segment."""
GATEWAYS: dict[int, IPAddress] = {
    Family.IPV4: IPv4Address("169.254.1.1"),
    Family.IPV6: IPv6Address("fe80::ecee:eeff:feee:eeee"),
}
"""A routed pod's default gateways, by IP version; the IPv6 one is the link-local address of `HOST_MAC`."""
_LIMITER_PREFIX = "pcb"
_BRIDGE_NF_CALL: dict[int, str] = {Family.IPV4: "bridge-nf-call-iptables", Family.IPV6: "bridge-nf-call-ip6tables"}
_LAST_METRIC = 32760
"""After the route of a bridge, of the same network."""


class PodDefaults(Struct, frozen=True):
    """What each pod of this node gets unless its ADD requests otherwise; `bridge` is the device's name in bridge wiring.

    `bridge_mac` is that of a bridge that was taken over: its pods know it.
    """

    subnets: NodeSubnets
    mtu: int
    wiring: Wiring = "routed"
    bridge: str = "cni0"
    bridge_mac: str | None = None


class Limit(Struct, frozen=True):
    """A token bucket: bits a second, and bits."""

    rate: int
    burst: int


class PodWires(Struct, frozen=True):
    """One interface of one pod. `addresses` carry the prefix that the pod sees, IPv4 first.

    `ingress` limits traffic to the pod, `egress` traffic from it. `bridge` is None for a routed pod.
    """

    container: str
    ifname: str
    mac: str
    mtu: int
    addresses: tuple[IPInterface, ...]
    bridge: str | None = None
    ingress: Limit | None = None
    egress: Limit | None = None

    @property
    def ips(self) -> tuple[IPAddress, ...]:
        """The addresses without their prefix."""
        return tuple(each.ip for each in self.addresses)

    @property
    def device(self) -> str:
        """The host's end of the pair."""
        return host_device(self.container, self.ifname)

    @property
    def limiter(self) -> str:
        """The device through which the pod's limited traffic leaves."""
        return _LIMITER_PREFIX + _digest(self.container, self.ifname)[:11]


def host_device(container: str, ifname: str) -> str:
    """The name of the host's end of the pair."""
    return POD_DEVICE_PREFIX + _digest(container, ifname)[:11]


def pod_mac(container: str, ifname: str) -> str:
    """The pod's default MAC: locally administered, and stable when the pair is recreated."""
    packed = bytes.fromhex(_digest(container, ifname))[-6:]
    return bytes((packed[0] & 0xFC | 0x02, *packed[1:])).hex(":")


def _digest(container: str, ifname: str) -> str:
    return sha256(f"{container}/{ifname}".encode()).hexdigest()


def pod_interface(defaults: PodDefaults, address: IPAddress, wiring: Wiring) -> IPInterface:
    """A pod's address with the prefix that the pod sees: its own alone, or the bridge's whole subnet."""
    if wiring == "bridge":
        for subnet in defaults.subnets:
            if address in subnet:
                return ip_interface((address, subnet.prefixlen))
    return ip_interface(address)


def gateway_of(wires: PodWires, address: IPInterface) -> IPAddress:
    """The pod's default gateway of this family."""
    return gateway(address.network) if wires.bridge is not None else GATEWAYS[address.version]


def pod_objects(wires: PodWires) -> tuple[KernelObject, ...]:
    """The objects in the pod's namespace, in order of dependency."""
    return (Link("lo"), *_pod_settings(wires), Link(wires.ifname, mtu=wires.mtu, mac=wires.mac), *_pod_routes(wires))


def _pod_settings(wires: PodWires) -> Iterator[Sysctl]:
    if _has_ipv6(wires):
        # A router advertisement from a neighbour on the bridge must not add addresses or routes.
        yield Sysctl(f"net/ipv6/conf/{wires.ifname}/accept_ra", "0")


def _pod_routes(wires: PodWires) -> Iterator[KernelObject]:
    for address in wires.addresses:
        via = gateway_of(wires, address)
        yield Address(wires.ifname, address)
        if wires.bridge is None:
            yield Neighbour(wires.ifname, via, HOST_MAC)
            if via.version == 4:
                yield Route(ip_network(via), wires.ifname)
        yield Route(Family(via.version).everything, wires.ifname, via)


def host_objects(wires: PodWires, namespace: int | None = None) -> tuple[KernelObject, ...]:
    """The objects on the host. The pair is created with `namespace`, the pod's open descriptor; afterwards it is None."""
    pair = Veth(VethPeer(wires.ifname, namespace, wires.mac, wires.mtu) if namespace is not None else None)
    side = _bridge_side(wires, pair) if wires.bridge is not None else _routed_side(wires, pair)
    return (*side, *_limits(wires))


def _routed_side(wires: PodWires, pair: Veth) -> Iterator[KernelObject]:
    # Neighbours are permanent: with ARP, pods could fill the node's neighbour table.
    yield Link(wires.device, pair, mtu=wires.mtu, mac=HOST_MAC, arp=False)
    if _has_ipv6(wires):
        yield Sysctl(f"net/ipv6/conf/{wires.device}/accept_ra", "0")
    else:
        # Else the pod and the node could use link-local addresses, which no IPv6 rule of ours matches.
        yield Sysctl(f"net/ipv6/conf/{wires.device}/disable_ipv6", "1")
    for address in wires.addresses:
        yield Neighbour(wires.device, address.ip, wires.mac)
        yield Route(ip_network(address.ip), wires.device)


def _bridge_side(wires: PodWires, pair: Veth) -> Iterator[KernelObject]:
    # Frames to reserved MACs are delivered to the port itself, past the bridge, so it must not have IP.
    yield Link(wires.device, pair, mtu=wires.mtu, master=wires.bridge, hairpin=True, arp=False)
    yield Sysctl(f"net/ipv6/conf/{wires.device}/disable_ipv6", "1")


def guard_elements(wires: PodWires) -> tuple[Element, ...]:
    """What the pod may send from: without them its packets are dropped."""
    if wires.bridge is not None:
        return tuple(bridged_source_elements(wires.device, wires.mac, _addresses(wires)))
    return tuple(source_elements(wires.device, _addresses(wires)))


def source_elements(device: str, addresses: Iterable[IPAddress]) -> Iterator[Element]:
    """The addresses that a routed pod may send from, for the node's end of its veth."""
    for address in addresses:
        family = Family(address.version).nft
        yield Element(family, "sources", (device, address))
        yield Element(family, "quoted", (device, int(address)))


def bridged_source_elements(device: str, mac: str, addresses: Iterable[IPAddress]) -> Iterator[Element]:
    """The addresses and the MAC that a bridged pod may send from, for its bridge port."""
    mac = mac.lower()
    neighbours: list[IPv6Address] = []
    for address in addresses:
        if isinstance(address, IPv6Address):
            yield Element("bridge", "sources6", (device, mac, address))
            yield Element("bridge", "quoted6", (device, int(address)))
            neighbours.append(address)
        else:
            yield Element("bridge", "sources", (device, mac, address))
            yield Element("bridge", "quoted", (device, int(address)))
    if neighbours:
        yield from (
            Element("bridge", "neighbours", (device, mac, int(each))) for each in (*neighbours, link_local(mac))
        )


def link_local(mac: str) -> IPv6Address:
    """The link-local address that a kernel derives from the MAC."""
    first, *rest = bytes.fromhex(mac.replace(":", ""))
    return IPv6Address(bytes((0xFE, 0x80, *bytes(6), first ^ 0x02, *rest[:2], 0xFF, 0xFE, *rest[2:])))


def _limits(wires: PodWires) -> Iterator[KernelObject]:
    if wires.ingress is not None:
        yield Shaper(wires.device, wires.ingress.rate, wires.ingress.burst)
    if wires.egress is not None:
        yield Link(wires.limiter, Ifb(), mtu=wires.mtu)
        yield Shaper(wires.limiter, wires.egress.rate, wires.egress.burst)
        yield Redirect(wires.device, wires.limiter)


def from_loopback(wires: PodWires) -> Sysctl:
    """Lets the node's processes reach the pod from loopback, and its answers back; `base_chains.py` drops all else."""
    return Sysctl(f"net/ipv4/conf/{wires.bridge or wires.device}/route_localnet", "1")


def bridge_nf_call(versions: Iterable[int]) -> tuple[Sysctl, ...]:
    """Passes packets between a bridge's ports to policies and services; fails on a kernel without br_netfilter."""
    return tuple(Sysctl(f"net/bridge/{_BRIDGE_NF_CALL[version]}", "1") for version in sorted(set(versions)))


def bridge_objects(defaults: PodDefaults) -> tuple[KernelObject, ...]:
    """The bridge with the gateway's addresses, once per node. Its MAC is fixed, for pods cache it."""
    gateways = [ip_interface((gateway(subnet), subnet.prefixlen)) for subnet in defaults.subnets]
    ipv6 = any(address.version == 6 for address in gateways)
    return (
        Link(defaults.bridge, Bridge(snooping=False, reserved=False), mtu=defaults.mtu, mac=bridge_mac(defaults)),
        *_bridge_ipv6(defaults.bridge, ipv6),
        *(Address(defaults.bridge, address) for address in gateways),
        *bridge_nf_call(address.version for address in gateways),
    )


def bridge_mac(defaults: PodDefaults) -> str:
    """The bridge's own."""
    own_mac = bytes((0x0A, 0x58, *sha256(str(defaults.subnets).encode()).digest()[:4])).hex(":")
    return defaults.bridge_mac or own_mac


def _bridge_ipv6(bridge: str, used: bool) -> Iterator[Sysctl]:
    setting = f"net/ipv6/conf/{bridge}/"
    if used:
        yield Sysctl(setting + "accept_ra", "0")
        # While the bridge's link-local address is in duplicate address detection, from its first pod on, the kernel asks for
        # no neighbour for a packet that it forwards, and drops it. No pod can have that address: the guard drops its claims.
        yield Sysctl(setting + "accept_dad", "0")
    else:
        yield Sysctl(setting + "disable_ipv6", "1")


def unreachable_subnets(subnets: Iterable[IPNetwork]) -> tuple[KernelObject, ...]:
    """Packets to unassigned addresses of this node's subnet are dropped instead of following the default route."""
    return tuple(Route(subnet, metric=_LAST_METRIC, kind="unreachable") for subnet in subnets)


def _addresses(wires: PodWires) -> Iterator[IPAddress]:
    return (address.ip for address in wires.addresses)


def _has_ipv6(wires: PodWires) -> bool:
    return any(address.version == 6 for address in wires.addresses)
