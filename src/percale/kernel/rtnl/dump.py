"""Reads a namespace: the owned objects, and the underlay, which is not ours. Called by `driver.py`.

Owned are devices with our alias, routes, addresses and neighbours with our protocol number, and whatever else is on a device
of ours, except what the kernel itself adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.kernel.netlink import route, tc
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.link import Device
from percale.kernel.netlink.route import SeenAddress
from percale.kernel.protocol import HostRoute, Interface, Underlay
from percale.kernel.rtnl.link_cache import LinkCache
from percale.render.objects import ROUTE_PROTOCOL, Address, FdbEntry, KernelObject, Link, Neighbour, Redirect, Shaper


class NetlinkDump:
    """One read of a namespace; the devices are read once."""

    def __init__(self, socket: netlink.Socket) -> None:
        self._socket = socket
        self._devices = LinkCache(socket)
        self._all = {device.index: device for device in self._devices.load()}

    def links(self) -> Iterator[Link]:
        """Every device, whoever made it; its kind if we know it."""
        return (self._devices.link(device) for device in self._all.values())

    def ours(self) -> Iterator[KernelObject]:
        """Every owned link, address, route, neighbour, FDB entry, shaper and redirect."""
        ours = {device.index: device for device in self._all.values() if device.ours}
        yield from (self._devices.link(device) for device in ours.values())
        yield from self._addresses(ours)
        yield from self._routes(ours)
        yield from self._neighbours(ours)
        for device in ours.values():
            if device.has_fdb:
                yield from self._fdb(device)
        yield from self._traffic(ours)

    def _addresses(self, ours: dict[int, Device]) -> Iterator[Address]:
        for message in self._socket.dump(route.RTM_GETADDR, route.query_addresses()):
            seen = route.decode_address(message.body)
            device = self._all.get(seen.index)
            if device is not None and (seen.ours or (seen.index in ours and not seen.kernel_assigned)):
                yield Address(device.name, seen.address)

    def _routes(self, ours: dict[int, Device]) -> Iterator[KernelObject]:
        for message in self._socket.dump(route.RTM_GETROUTE, route.query_routes()):
            seen = route.decode_route(message.body)
            if seen is not None and (seen.ours or (seen.index in ours and not seen.kernel_managed)):
                yield route.as_route(seen, self._name(seen.index))

    def _name(self, index: int | None) -> str | None:
        device = self._all.get(index) if index is not None else None
        return device.name if device is not None else None

    def _neighbours(self, ours: dict[int, Device]) -> Iterator[Neighbour]:
        for message in self._socket.dump(route.RTM_GETNEIGH, route.query_neighbours()):
            seen = route.decode_neighbour(message.body)
            if seen is None or not seen.permanent or not (seen.ours or seen.index in ours):
                continue
            device = self._all.get(seen.index)
            if device is not None and seen.dst is not None and seen.mac is not None:
                yield Neighbour(device.name, seen.dst, seen.mac)

    def _fdb(self, device: Device) -> Iterator[FdbEntry]:
        for message in self._socket.dump(route.RTM_GETNEIGH, route.query_fdb(device.index)):
            seen = route.decode_neighbour(message.body)
            if seen is not None and seen.permanent and seen.dst is not None and seen.mac is not None:
                yield FdbEntry(device.name, seen.mac, seen.dst)

    def _traffic(self, ours: dict[int, Device]) -> Iterator[KernelObject]:
        if not ours:
            return
        for message in self._socket.dump(tc.RTM_GETQDISC, tc.query_qdiscs()):
            device = ours.get(tc.device_of(message.body))
            if device is None:
                continue
            if tc.is_ingress(message.body):
                yield from self._redirect(device)
            elif (shape := tc.decode_shaper(message.body)) is not None:
                yield Shaper(device.name, *shape)

    def _redirect(self, device: Device) -> Iterator[Redirect]:
        """An ingress without our filter redirects to "": it equals no desired object, and so is repaired."""
        to = ""
        for message in self._socket.dump(tc.RTM_GETFILTER, tc.query_filters(device.index)):
            index = tc.decode_redirect(message.body)
            to = (self._name(index) or "") if index is not None else to
        yield Redirect(device.name, to)

    def underlay(self) -> Underlay:
        """Interfaces and routes that are not ours."""
        theirs = {device.index: device for device in self._all.values() if not device.ours}
        addresses: dict[int, list[SeenAddress]] = {index: [] for index in theirs}
        for message in self._socket.dump(route.RTM_GETADDR, route.query_addresses()):
            seen = route.decode_address(message.body)
            if seen.index in theirs and not seen.ours:
                addresses[seen.index].append(seen)
        return Underlay(
            interfaces=tuple(
                Interface(
                    name=device.name,
                    index=device.index,
                    mac=device.mac,
                    mtu=device.mtu,
                    up=device.up,
                    carrier=device.carrier,
                    addresses=tuple(each.address for each in _oldest_first(addresses[device.index])),
                    temporary=frozenset(each.address for each in addresses[device.index] if each.temporary),
                    master=self._name(device.master),
                )
                for device in theirs.values()
            ),
            routes=tuple(self._host_routes(theirs)),
        )

    def _host_routes(self, theirs: dict[int, Device]) -> Iterator[HostRoute]:
        for message in self._socket.dump(route.RTM_GETROUTE, route.query_routes()):
            if route.route_protocol(message.body) == ROUTE_PROTOCOL:
                continue
            seen = route.decode_route(message.body)
            if seen is not None and seen.kind == "unicast" and seen.index in theirs:
                yield HostRoute(seen.dst, theirs[seen.index].name, seen.via, seen.metric, seen.src)


def _oldest_first(addresses: Iterable[SeenAddress]) -> list[SeenAddress]:
    """By scope, then by age: the kernel lists a new IPv4 address after those of its scope, and a new IPv6 one before them."""
    order = list(addresses)
    ipv4 = [each for each in order if each.address.version == 4]
    ipv6 = [each for each in reversed(order) if each.address.version == 6]
    return sorted([*ipv4, *ipv6], key=lambda each: (each.address.version, each.scope))


def foreign_link(interface: Interface) -> Link:
    """A foreign device as an object, for comparison with its desired settings."""
    return Link(
        name=interface.name, up=interface.up, mtu=interface.mtu, mac=interface.mac, master=interface.master, alias=""
    )


def own_addresses() -> set[bytes]:
    """All addresses of the caller's namespace, packed. Raises OSError."""
    socket = netlink.Socket(netlink.ROUTE)
    try:
        answers = socket.dump(route.RTM_GETADDR, route.query_addresses())
        return {route.decode_address(message.body).address.packed for message in answers}
    finally:
        socket.close()
