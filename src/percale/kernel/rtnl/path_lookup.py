"""The way of a packet by the tables of one namespace: route, neighbour, forwarding entry. Read only; for `trace/observer.py`."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress

from msgspec import Struct

from percale.kernel import sysctl
from percale.kernel.netlink import link, route
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.ifinfo import mac_text
from percale.kernel.netlink.link import Device
from percale.kernel.netlink.route import FoundRoute, RouteQuery
from percale.kernel.netlink.socket import attributes
from percale.model.addresses import IPAddress

_TABLES = {253: "default", 254: "main", 255: "local"}
_NEIGHBOUR_STATES = {
    0x01: "INCOMPLETE",
    0x02: "REACHABLE",
    0x04: "STALE",
    0x08: "DELAY",
    0x10: "PROBE",
    0x20: "FAILED",
    0x40: "NOARP",
    0x80: "PERMANENT",
}
_WITHOUT_NEIGHBOURS = frozenset({"wireguard", "tun", "ipip", "sit", "ip6tnl"})
_ANY_MAC = "00:00:00:00:00:00"
COUNTERS = {
    "Ip": ("InHdrErrors", "InAddrErrors", "InDiscards", "OutNoRoutes", "OutDiscards", "FragFails", "FragCreates"),
    "IpExt": ("InNoRoutes", "InCsumErrors"),
    "TcpExt": ("IPReversePathFilter", "TCPBacklogDrop", "ListenDrops", "ListenOverflows"),
    "Tcp": ("InCsumErrors",),
    "Udp": ("NoPorts", "InErrors", "InCsumErrors", "RcvbufErrors"),
}
"""Of /proc/net/snmp and netstat: what may count a packet that is lost without a rule."""
COUNTERS6 = frozenset(
    (
        "Ip6InNoRoutes",
        "Ip6InAddrErrors",
        "Ip6InDiscards",
        "Ip6OutNoRoutes",
        "Ip6FragFails",
        "Ip6InTooBigErrors",
        "Udp6InCsumErrors",
    )
)


class NeighbourEntry(Struct, frozen=True):
    """`mac` None: not known. `state` as `ip neigh` has it; "none": there is no entry."""

    address: IPAddress
    mac: str | None
    state: str


class ForwardingEntry(Struct, frozen=True):
    """Where a MAC is behind a device: a bridge's port, or a VTEP's address; both None: there is no entry."""

    device: str
    mac: str
    port: str | None = None
    remote: IPAddress | None = None


class PathLookup(Struct, frozen=True):
    """What the tables say of a packet. `error`: the kernel's word where it has no route, or refuses the packet."""

    query: RouteQuery
    input: str | None
    """The device that it comes in by; None: it begins here."""
    kind: str = ""
    table: str = ""
    prefix: str = ""
    via: IPAddress | None = None
    device: str | None = None
    neighbour: NeighbourEntry | None = None
    forwarding: ForwardingEntry | None = None
    error: str | None = None
    back: str | None = None
    """The device that leads to the source; asked for where the packet is refused."""


class DeviceFacts(Struct, frozen=True):
    """A device of the namespace."""

    name: str
    kind: str | None
    mtu: int
    mac: str | None
    up: bool
    master: str | None
    rp_filter: int | None


class PathTables:
    """Read over sockets in a namespace; not thread-safe."""

    def __init__(self) -> None:
        """Of the caller's namespace. Raises OSError."""
        self._socket = netlink.Socket(netlink.ROUTE)
        answers = self._socket.dump(link.RTM_GETLINK, link.query_all())
        self._devices = {device.index: device for device in map(link.decode, (each.body for each in answers))}
        self._by_name = {device.name: device for device in self._devices.values()}

    def close(self) -> None:
        self._socket.close()

    def device_name(self, index: int | None) -> str | None:
        device = self._devices.get(index) if index is not None else None
        return device.name if device is not None else None

    def devices(self) -> tuple[DeviceFacts, ...]:
        """All; called in the namespace."""
        return tuple(map(self._facts, self._devices.values()))

    def _facts(self, device: Device) -> DeviceFacts:
        return DeviceFacts(
            device.name,
            device.kind,
            device.mtu,
            device.mac,
            device.up,
            self.device_name(device.master),
            sysctl.reverse_path_filter(device.name),
        )

    def lookup(self, query: RouteQuery, input_device: str | None) -> PathLookup:
        """Raises OSError only for what is no answer about this packet."""
        device = self._by_name.get(input_device) if input_device is not None else None
        index = device.index if device is not None else None
        try:
            taken = self._route(query, index, entry=False)
        except OSError as error:
            back = self._device_back(query) if index is not None else None
            kind, prefix = self._barrier(query.destination) or ("", "")
            table = "main" if kind else ""
            return PathLookup(query, input_device, kind, table, prefix, error=os.strerror(error.errno or 0), back=back)
        with suppress(OSError):  # for the entry alone the kernel does not know how to answer some of its own routes
            entry = self._route(query, index, entry=True)
            found = PathLookup(
                query,
                input_device,
                taken.kind,
                _TABLES.get(entry.table, str(entry.table)),
                f"{entry.prefix}/{entry.prefix_length}",
                taken.via,
                self.device_name(taken.device),
            )
            return self._with_neighbour(found, taken) if taken.kind == "unicast" else found
        return PathLookup(query, input_device, taken.kind, via=taken.via, device=self.device_name(taken.device))

    def _route(self, query: RouteQuery, index: int | None, *, entry: bool) -> FoundRoute:
        answer = self._socket.ask(route.RTM_GETROUTE, route.query_path(query, index, entry=entry))
        if answer is None:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        return route.decode_path(answer.body)

    def _barrier(self, destination: IPAddress) -> tuple[str, str] | None:
        """Kind and prefix of the route of table main that ends the way to there: asked for it, the kernel has only an error."""
        found = []
        for message in self._socket.dump(route.RTM_GETROUTE, route.query_routes()):
            seen = route.decode_route(message.body)
            if seen is not None and seen.dst.version == destination.version and destination in seen.dst:
                found.append(seen)
        longest = max(found, key=lambda each: each.dst.prefixlen, default=None)
        return (longest.kind, str(longest.dst)) if longest is not None and longest.kind != "unicast" else None

    def _device_back(self, query: RouteQuery) -> str | None:
        if query.source is None:
            return None
        with suppress(OSError):
            return self.device_name(self._route(RouteQuery(query.source), None, entry=False).device)
        return None

    def _with_neighbour(self, found: PathLookup, taken: FoundRoute) -> PathLookup:
        device = self._devices.get(taken.device or 0)
        if device is None or device.kind in _WITHOUT_NEIGHBOURS or device.mac is None:
            return found
        entry = self._neighbour(taken.via or found.query.destination, device)
        return PathLookup(
            found.query,
            found.input,
            found.kind,
            found.table,
            found.prefix,
            found.via,
            found.device,
            entry,
            self._forwarding(device, entry.mac) if entry.mac is not None else None,
        )

    def _neighbour(self, address: IPAddress, device: Device) -> NeighbourEntry:
        for message in self._socket.dump(route.RTM_GETNEIGH, route.query_neighbours()):
            seen = route.decode_neighbour(message.body)
            if seen is not None and not seen.fdb and (seen.index, seen.dst) == (device.index, address):
                return NeighbourEntry(
                    address, seen.mac, _NEIGHBOUR_STATES.get(route.neighbour_state(message.body), "?")
                )
        return NeighbourEntry(address, None, "none")

    def _forwarding(self, device: Device, mac: str) -> ForwardingEntry | None:
        """Of a vxlan device the VTEP, of a bridge the port; None for other devices."""
        if device.kind == "vxlan":
            entries = {}
            for message in self._socket.dump(route.RTM_GETNEIGH, route.query_fdb(device.index)):
                seen = route.decode_neighbour(message.body)
                if seen is not None and seen.mac is not None and seen.dst is not None:
                    entries[seen.mac] = seen.dst
            return ForwardingEntry(device.name, mac, remote=entries.get(mac, entries.get(_ANY_MAC)))
        if device.kind == "bridge":
            port = self._bridge_port(device, mac)
            return ForwardingEntry(device.name, mac, port=port)
        return None

    def _bridge_port(self, bridge: Device, mac: str) -> str | None:
        for message in self._socket.dump(route.RTM_GETNEIGH, route.query_bridge_fdb(bridge.index)):
            if mac_text(attributes(message.body, 12).get(2, b"")) == mac:
                return self.device_name(route.entry_device(message.body))
        return None


def read_counters() -> dict[str, int]:
    """`COUNTERS` of the calling thread's namespace, as `TcpExtIPReversePathFilter`. Raises OSError."""
    found: dict[str, int] = {}
    for file in ("snmp", "netstat"):
        with open(f"/proc/thread-self/net/{file}") as text:  # noqa: PTH123 -- of this thread
            lines = text.read().splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            group = names.partition(":")[0]
            wanted = COUNTERS.get(group, ())
            found |= {
                group + name: int(value)
                for name, value in zip(names.split()[1:], values.split()[1:], strict=True)
                if name in wanted
            }
    with suppress(OSError), open("/proc/thread-self/net/snmp6") as text:  # noqa: PTH123
        found |= {name: int(value) for name, value in map(str.split, text) if name in COUNTERS6}
    return found


def own_source(address: IPAddress) -> str:
    """The address that the calling thread's namespace sends from to there. Raises OSError."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as endpoint:
        endpoint.connect((str(address), 9))
        name: str = endpoint.getsockname()[0]
        return name
