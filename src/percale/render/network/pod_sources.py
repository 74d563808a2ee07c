"""Which addresses a pod may send from, as set elements. The pod's wiring wishes them beside the pod's device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address

from percale.render.objects import Element, Family, IPAddress


def source_elements(device: str, addresses: Iterable[IPAddress]) -> Iterator[Element]:
    """Elements for the node's end of a routed pod's veth."""
    for address in addresses:
        family: Family = "ip" if address.version == 4 else "ip6"
        yield Element(family, "sources", (device, address))
        yield Element(family, "quoted", (device, int(address)))


def bridged_source_elements(device: str, mac: str, addresses: Iterable[IPAddress]) -> Iterator[Element]:
    """Elements for the bridge's port of a pod with this MAC."""
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
    """The address that a pod's kernel makes of its MAC."""
    first, *rest = bytes.fromhex(mac.replace(":", ""))
    return IPv6Address(bytes((0xFE, 0x80, *bytes(6), first ^ 0x02, *rest[:2], 0xFF, 0xFE, *rest[2:])))
