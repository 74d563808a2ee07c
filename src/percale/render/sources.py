"""Which addresses a pod may send from, as set elements. The pod's wiring wishes them beside the pod's device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.render.objects import Element, IPAddress


def source_elements(device: str, addresses: Iterable[IPAddress], *, bridged: bool = False) -> Iterator[Element]:
    """Elements for the node's end of a pod's veth; `bridged` when it is a bridge's port."""
    for address in addresses:
        if bridged:
            yield Element("bridge", "sources" if address.version == 4 else "sources6", (device, address))
        else:
            yield Element("ip" if address.version == 4 else "ip6", "sources", (device, address))
