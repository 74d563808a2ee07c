"""Addresses, routes, neighbours and FDB entries as rtnetlink messages, both ways; pure.

`rtnl/driver.py` sends what `put_…` and `remove_…` return; `rtnl/dump.py` and `monitor.py` pass received messages to `decode_…`.
Decoders return None for what is none of our kinds (a multicast route, a learned neighbour).
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Literal, NamedTuple

from msgspec import Struct

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.ifinfo import mac_bytes, mac_text
from percale.kernel.netlink.socket import Request, attribute, attributes, number, u8, u32
from percale.model.addresses import IPAddress, IPInterface, IPNetwork
from percale.render.objects import ROUTE_PROTOCOL, Address, FdbEntry, Neighbour, Route

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWNETCONF = 80

_ADDRESS_HEADER = struct.Struct("=BBBBI")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_PROTOCOL = 1, 2, 8, 11
_IFA_TEMPORARY, _IFA_NODAD = 0x01, 0x02
_IFA_KERNEL_LINK_LOCAL = 2

_ROUTE_HEADER = struct.Struct("=BBBBBBBBI")
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_SOURCE, _RTA_MULTIPATH = 1, 4, 5, 6, 7, 9
_RTA_TABLE, _RTA_VIA = 15, 18
_RTA_SRC, _RTA_IIF, _RTA_IP_PROTO, _RTA_SPORT, _RTA_DPORT = 2, 3, 27, 28, 29
_LOOKUP_TABLE, _FIB_MATCH = 0x1000, 0x2000
_KINDS_OF_ROUTES = {
    1: "unicast",
    2: "local",
    3: "broadcast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
}
_TABLE_MAIN = 254
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_ONLINK = 4
_KERNEL_PROTOCOLS = frozenset({1, 2, 9})
"""Redirects, the kernel's own, router advertisements: routes that no program declared."""
_ROUTE_TYPES: dict[Literal["unicast", "blackhole", "unreachable"], int] = {
    "unicast": 1,
    "blackhole": 6,
    "unreachable": 7,
}
_LOCAL = 2
_ROUTE_KINDS = {number: kind for kind, number in _ROUTE_TYPES.items()}
_IPV6_METRIC = 1024
"""The kernel's default metric for IPv6 routes; our 0."""

_NEIGHBOUR_HEADER = struct.Struct("=BxxxiHBB")
_NDA_DST, _NDA_MAC, _NDA_MASTER, _NDA_PROTOCOL = 1, 2, 9, 12
_NUD_PERMANENT = 0x80
_NTF_SELF = 0x02

_NETCONF_INDEX, _NETCONF_FORWARDING = 1, 2
_ALL_DEVICES = struct.pack("=i", -1)
_FORWARDING: dict[int, str] = {socket.AF_INET: "net/ipv4/ip_forward", socket.AF_INET6: "net/ipv6/conf/all/forwarding"}

_PUT = netlink.CREATE | netlink.REPLACE
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV})


class SeenAddress(Struct, frozen=True):
    """An address as the kernel reports it: its device, its scope (RT_SCOPE_*), its owner, and whether it is temporary."""

    index: int
    address: IPInterface
    scope: int
    ours: bool
    temporary: bool
    kernel_assigned: bool


class SeenRoute(Struct, frozen=True):
    """A route as the kernel reports it; `protocol` is its owner."""

    dst: IPNetwork
    index: int | None
    via: IPAddress | None
    src: IPAddress | None
    metric: int
    onlink: bool
    kind: Literal["unicast", "blackhole", "unreachable"]
    protocol: int

    @property
    def ours(self) -> bool:
        return self.protocol == ROUTE_PROTOCOL

    @property
    def kernel_managed(self) -> bool:
        return self.protocol in _KERNEL_PROTOCOLS


class SeenNeighbour(Struct, frozen=True):
    """A neighbour (`dst` an address on the link) or, of a vxlan device, an FDB entry (`dst` a VTEP).

    `mac` is None when it is not known (yet, or any more).
    """

    index: int
    dst: IPAddress | None
    mac: str | None
    permanent: bool
    ours: bool
    fdb: bool


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _address(payload: bytes) -> IPAddress:
    return IPv4Address(payload) if len(payload) == 4 else IPv6Address(payload)


# Addresses


def put_address(desired: Address, index: int) -> list[Request]:
    body = _encode_address(desired, index)
    return [Request(RTM_NEWADDR, _PUT, body)]


def remove_address(desired: Address, index: int) -> list[Request]:
    return [Request(RTM_DELADDR, 0, _encode_address(desired, index), _GONE)]


def _encode_address(desired: Address, index: int) -> bytes:
    packed = desired.address.ip.packed
    flags = _IFA_NODAD if desired.address.version == 6 else 0
    header = _ADDRESS_HEADER.pack(_family(desired.address.version), desired.address.network.prefixlen, flags, 0, index)
    return (
        header
        + attribute(_IFA_LOCAL, packed)
        + attribute(_IFA_ADDRESS, packed)
        + u32(_IFA_FLAGS, flags)
        + u8(_IFA_PROTOCOL, ROUTE_PROTOCOL)
    )


def query_addresses() -> bytes:
    return _ADDRESS_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0)


def decode_address(body: bytes) -> SeenAddress:
    family, prefix, flags, scope, index = _ADDRESS_HEADER.unpack_from(body)
    found = attributes(body, 8)
    packed = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    protocol = number(found.get(_IFA_PROTOCOL, b""))
    interface = IPv4Interface if family == socket.AF_INET else IPv6Interface
    return SeenAddress(
        index=index,
        address=interface((packed, prefix)),
        scope=scope,
        ours=protocol == ROUTE_PROTOCOL,
        temporary=family == socket.AF_INET6 and bool(number(found.get(_IFA_FLAGS, bytes((flags,)))) & _IFA_TEMPORARY),
        kernel_assigned=protocol == _IFA_KERNEL_LINK_LOCAL or packed[:2] == b"\xfe\x80",
    )


# Routes


def put_route(desired: Route, index: int | None) -> list[Request]:
    scope = (
        _SCOPE_LINK
        if desired.via is None and desired.kind == "unicast" and desired.dst.version == 4
        else _SCOPE_UNIVERSE
    )
    return [Request(RTM_NEWROUTE, _PUT, _encode_route(desired, index, ROUTE_PROTOCOL, scope))]


def delete_conflicting_route(desired: Route) -> list[Request]:
    """Delete what conflicts with the route: an IPv6 on-link gateway is looked up even so, and rejected when our earlier
    route to the very network that it lies in leads it elsewhere.
    """
    if not (desired.onlink and desired.dst.version == 6):
        return []
    return remove_route(Route(desired.dst, metric=desired.metric), None, any_protocol=False)


def remove_route(desired: Route, index: int | None, *, any_protocol: bool) -> list[Request]:
    """Delete this route: ours by its protocol, or any (on a device of ours every route is ours)."""
    protocol = 0 if any_protocol else ROUTE_PROTOCOL
    return [Request(RTM_DELROUTE, 0, _encode_route(desired, index, protocol, _SCOPE_NOWHERE), _GONE)]


def _encode_route(desired: Route, index: int | None, protocol: int, scope: int) -> bytes:
    dst = desired.dst
    parts = [
        _ROUTE_HEADER.pack(
            _family(dst.version),
            dst.prefixlen,
            0,
            0,
            _TABLE_MAIN,
            protocol,
            scope,
            _ROUTE_TYPES[desired.kind],
            _ONLINK if desired.onlink else 0,
        )
    ]
    if dst.prefixlen:
        parts.append(attribute(_RTA_DST, dst.network_address.packed))
    if index is not None:
        parts.append(u32(_RTA_OIF, index))
    if desired.via is not None:
        packed = desired.via.packed
        if desired.via.version == dst.version:
            parts.append(attribute(_RTA_GATEWAY, packed))
        else:
            parts.append(attribute(_RTA_VIA, struct.pack("=H", _family(desired.via.version)) + packed))
    if desired.src is not None:
        parts.append(attribute(_RTA_SOURCE, desired.src.packed))
    if desired.metric:
        parts.append(u32(_RTA_PRIORITY, desired.metric))
    return b"".join(parts)


def query_routes(table: int = _TABLE_MAIN) -> bytes:
    """All routes of a table (1 to 254), both families."""
    header = _ROUTE_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, table, 0, 0, 0, 0)
    return header + u32(_RTA_TABLE, table)


def query_route(address: IPAddress) -> bytes:
    """The route that packets to this address take."""
    header = _ROUTE_HEADER.pack(_family(address.version), address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return header + attribute(_RTA_DST, address.packed)


def query_path(query: RouteQuery, input_index: int | None, *, entry: bool) -> bytes:
    """The route of this packet, as the kernel would look it up now; with `entry` the routing table's entry that matched."""
    destination = query.destination
    # For IPv6 the kernel tells the table always, and refuses to be asked for it.
    flags = (_LOOKUP_TABLE if destination.version == 4 else 0) | (_FIB_MATCH if entry else 0)
    length = destination.max_prefixlen
    header = _ROUTE_HEADER.pack(
        _family(destination.version), length, length if query.source else 0, 0, 0, 0, 0, 0, flags
    )
    parts = [header, attribute(_RTA_DST, destination.packed)]
    if query.source is not None:
        parts.append(attribute(_RTA_SRC, query.source.packed))
    if input_index is not None:
        parts.append(u32(_RTA_IIF, input_index))
    if query.protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        parts.append(u8(_RTA_IP_PROTO, query.protocol))
        parts += (
            attribute(kind, port.to_bytes(2, "big"))
            for kind, port in ((_RTA_SPORT, query.source_port), (_RTA_DPORT, query.destination_port))
            if port
        )
    return b"".join(parts)


class RouteQuery(NamedTuple):
    """A packet that is routed."""

    destination: IPAddress
    source: IPAddress | None = None
    protocol: int = 0
    source_port: int = 0
    destination_port: int = 0


class FoundRoute(NamedTuple):
    """An answer to `query_path`; `kind` is the kernel's word: unicast, local, blackhole, …"""

    kind: str
    table: int
    device: int | None
    via: IPAddress | None
    prefix_length: int
    prefix: IPAddress | None
    protocol: int


def decode_path(body: bytes) -> FoundRoute:
    family, length, _, _, table, protocol, _, kind, _ = _ROUTE_HEADER.unpack_from(body)
    found = attributes(body, 12)
    via = None
    if _RTA_GATEWAY in found:
        via = _address(found[_RTA_GATEWAY])
    elif _RTA_VIA in found:
        via = _address(found[_RTA_VIA][2:])
    unspecified = bytes(4 if family == socket.AF_INET else 16)
    return FoundRoute(
        _KINDS_OF_ROUTES.get(kind, str(kind)),
        number(found[_RTA_TABLE]) if _RTA_TABLE in found else table,
        number(found[_RTA_OIF]) if _RTA_OIF in found else None,
        via,
        length,
        _address(found.get(_RTA_DST, unspecified)),
        protocol,
    )


def leads_here(body: bytes) -> bool:
    """Whether a route is to one of the namespace's own addresses."""
    return body[7] == _LOCAL


def route_protocol(body: bytes) -> int:
    """The route's protocol, without decoding the rest."""
    return body[5]


def decode_route(body: bytes, table: int = _TABLE_MAIN) -> SeenRoute | None:
    """A route of this table (1 to 254) with one next hop; None for others."""
    family, length, _, _, short_table, protocol, _, kind, flags = _ROUTE_HEADER.unpack_from(body)
    if kind not in _ROUTE_KINDS or short_table != table:
        return None
    found = attributes(body, 12)
    if _RTA_MULTIPATH in found or number(found.get(_RTA_TABLE, bytes((table,)))) != table:
        return None
    metric = number(found.get(_RTA_PRIORITY, b""))
    via = None
    if _RTA_GATEWAY in found:
        via = _address(found[_RTA_GATEWAY])
    elif _RTA_VIA in found:
        via = _address(found[_RTA_VIA][2:])
    dst: IPNetwork
    if family == socket.AF_INET:
        dst = IPv4Network((found.get(_RTA_DST, b"\0\0\0\0"), length))
    else:
        dst = IPv6Network((found.get(_RTA_DST, bytes(16)), length))
        metric = 0 if metric == _IPV6_METRIC else metric
    unicast = kind == _ROUTE_TYPES["unicast"]
    return SeenRoute(
        dst=dst,
        index=number(found[_RTA_OIF]) if unicast and _RTA_OIF in found else None,
        via=via,
        src=_address(found[_RTA_SOURCE]) if _RTA_SOURCE in found else None,
        metric=metric,
        onlink=bool(flags & _ONLINK),
        kind=_ROUTE_KINDS[kind],
        protocol=protocol,
    )


def as_route(seen: SeenRoute, dev: str | None) -> Route:
    return Route(seen.dst, dev, seen.via, seen.onlink, seen.src, seen.metric, seen.kind)


# Neighbours and forwarding entries


def put_neighbour(desired: Neighbour, index: int) -> list[Request]:
    return [Request(RTM_NEWNEIGH, _PUT, _encode_neighbour(desired, index))]


def remove_neighbour(desired: Neighbour, index: int) -> list[Request]:
    return [Request(RTM_DELNEIGH, 0, _encode_neighbour(desired, index), _GONE)]


def forget_neighbour(address: IPAddress, index: int) -> Request:
    """What the kernel has learned, or asks; packets that wait for the answer are dropped."""
    header = _NEIGHBOUR_HEADER.pack(_family(address.version), index, 0, 0, 0)
    return Request(RTM_DELNEIGH, 0, header + attribute(_NDA_DST, address.packed), _GONE)


def _encode_neighbour(desired: Neighbour, index: int) -> bytes:
    return (
        _NEIGHBOUR_HEADER.pack(_family(desired.address.version), index, _NUD_PERMANENT, 0, 0)
        + attribute(_NDA_DST, desired.address.packed)
        + attribute(_NDA_MAC, mac_bytes(desired.mac))
        + u8(_NDA_PROTOCOL, ROUTE_PROTOCOL)
    )


def put_fdb(desired: FdbEntry, index: int) -> list[Request]:
    """A unicast MAC has one destination: a new one replaces it."""
    return [Request(RTM_NEWNEIGH, _PUT, _encode_fdb(desired, index))]


def remove_fdb(desired: FdbEntry, index: int) -> list[Request]:
    body = _fdb_header(index) + attribute(_NDA_MAC, mac_bytes(desired.mac))
    return [Request(RTM_DELNEIGH, 0, body, _GONE)]


def _fdb_header(index: int) -> bytes:
    return _NEIGHBOUR_HEADER.pack(socket.AF_BRIDGE, index, _NUD_PERMANENT, _NTF_SELF, 0)


def _encode_fdb(desired: FdbEntry, index: int) -> bytes:
    return _fdb_header(index) + attribute(_NDA_MAC, mac_bytes(desired.mac)) + attribute(_NDA_DST, desired.dst.packed)


def query_neighbours() -> bytes:
    return _NEIGHBOUR_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0)


def query_fdb(index: int) -> bytes:
    """All forwarding entries of one device."""
    return _NEIGHBOUR_HEADER.pack(socket.AF_BRIDGE, index, 0, 0, 0)


def query_bridge_fdb(index: int) -> bytes:
    """All forwarding entries of a bridge's ports."""
    return _NEIGHBOUR_HEADER.pack(socket.AF_BRIDGE, 0, 0, 0, 0) + u32(_NDA_MASTER, index)


def neighbour_state(body: bytes) -> int:
    """NUD_…"""
    state: int = _NEIGHBOUR_HEADER.unpack_from(body)[2]
    return state


def entry_device(body: bytes) -> int:
    """The index of a neighbour's or forwarding entry's device."""
    index: int = _NEIGHBOUR_HEADER.unpack_from(body)[1]
    return index


def decode_neighbour(body: bytes) -> SeenNeighbour | None:
    """A neighbour or an FDB entry of the device itself; None for entries of another kind."""
    family, index, state, flags, _ = _NEIGHBOUR_HEADER.unpack_from(body)
    fdb = family == socket.AF_BRIDGE
    if (fdb and not flags & _NTF_SELF) or family not in (socket.AF_BRIDGE, socket.AF_INET, socket.AF_INET6):
        return None
    found = attributes(body, 12)
    mac = found.get(_NDA_MAC, b"")
    return SeenNeighbour(
        index=index,
        dst=_address(found[_NDA_DST]) if _NDA_DST in found else None,
        mac=mac_text(mac) if len(mac) == 6 else None,
        permanent=bool(state & _NUD_PERMANENT),
        ours=number(found.get(_NDA_PROTOCOL, b"")) == ROUTE_PROTOCOL,
        fdb=fdb,
    )


def decode_end_of_forwarding(body: bytes) -> str | None:
    """The sysctl by which forwarding was disabled for a family."""
    changed = attributes(body, 4)
    ended = changed.get(_NETCONF_INDEX) == _ALL_DEVICES and changed.get(_NETCONF_FORWARDING) == bytes(4)
    return _FORWARDING.get(body[0]) if ended else None
