"""The host ports of this node's pods, as their part of the table. The CNI's verbs open and close them; `node.py` makes it.

    ADD with portMappings ─▶ open ─▶ NodeTable ─▶ in the kernel ─▶ ADD answers        DEL ─▶ close

What was open before the agent started is in the records of the pods. A client that sends datagrams from one port keeps its
flow, whoever has the host port by now: such flows are forgotten (`service_flows.py`). A node port of the same number comes
before a host port: its flows are its Service's matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator

from msgspec import Struct

from percale.agent.events import Subject
from percale.agent.service_flows import EVERYWHERE, Served, ServiceFlows
from percale.agent.table import NodeTable
from percale.cni.records import Attachment
from percale.errors import StateError
from percale.ipam.addresses import Owner
from percale.model.meta import ObjectKey
from percale.render.contents import Edit, Elements
from percale.render.host_ports import HostPort, host_port_elements
from percale.render.objects import IPAddress
from percale.service.choosing import Record


class _Opened(Struct, frozen=True):
    pod: str
    key: ObjectKey | None
    addresses: tuple[IPAddress, ...]
    ports: tuple[HostPort, ...]
    elements: frozenset[tuple[str, bytes, bytes]]

    def datagrams(self) -> Iterator[tuple[tuple[bytes, int], frozenset[Record]]]:
        """Address (or EVERYWHERE) and number of its UDP ports, and where they lead."""
        for port in self.ports:
            if port.protocol == "UDP":
                at = EVERYWHERE if port.address is None or port.address.is_unspecified else port.address.packed
                leads = frozenset(address.packed + port.container_port.to_bytes(2) for address in self.addresses)
                yield (at, port.port), leads


class HostPorts:
    """All methods are called on the event loop."""

    spoken = True
    """Records are read before this is made."""

    def __init__(self, table: NodeTable, attachments: Iterable[Attachment], flows: ServiceFlows) -> None:
        self._table = table
        self._flows = flows
        self._opened: dict[Owner, _Opened] = {each.owner: _opened(each) for each in attachments if each.ports}
        self._shown: frozenset[tuple[str, bytes, bytes]] = frozenset()
        self._datagrams = {at for each in self._opened.values() for at, _ in each.datagrams()}
        """UDP ports, each at its address, that some pod got or lost since the last `edit`."""
        self._moved: set[tuple[bytes, int]] = set()
        """The same of the last `edit`."""
        self._waiting: list[asyncio.Future[None]] = []
        self._woken: list[asyncio.Future[None]] = []
        self._before: Callable[[Collection[int]], Served] = lambda ports: {}
        table.add(self)

    def come_after(self, services: Callable[[Collection[int]], Served]) -> None:
        """`services` tells who serves these UDP ports wherever a Service has them."""
        self._before = services

    async def open(self, attachment: Attachment) -> None:
        """The pod is reached at its host ports when this returns. Raises StateError."""
        owner, ports = attachment.owner, attachment.ports
        if not ports:
            return
        for other, theirs in self._opened.items():
            if other != owner and (taken := [port for port in ports if port in theirs.ports]):
                raise StateError(f"{taken[0]} is taken", where=str(attachment), hint=f"{theirs.pod} has it")
        self._closed(owner)
        opened = self._opened[owner] = _opened(attachment)
        self._datagrams |= {at for at, _ in opened.datagrams()}
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._table.touch()
        await done

    def close(self, owner: Owner) -> None:
        """The pod is reached there no more; that it never was is no error."""
        if self._closed(owner):
            self._table.touch()

    def _closed(self, owner: Owner) -> bool:
        """Whether there was anything to close."""
        gone = self._opened.pop(owner, None)
        if gone is None:
            return False
        self._datagrams |= {at for at, _ in gone.datagrams()}
        return True

    # This node's table

    def edit(self) -> Edit:
        """What has changed since the last call."""
        before, self._shown = self._shown, frozenset().union(*(each.elements for each in self._opened.values()))
        self._moved |= self._datagrams
        self._datagrams = set()
        self._woken += self._waiting
        self._waiting = []
        return Edit(remove=_elements(before - self._shown, data=False), put=_elements(self._shown - before, data=True))

    def image(self) -> Edit:
        """All elements, from the static text alone."""
        return Edit(put=_elements(self._shown, data=True))

    def subjects(self, part: Edit) -> Iterator[Subject]:
        """The pods whose host ports these are."""
        wanted = {(each.set, each.keys) for each in part.put}
        for opened in self._opened.values():
            if opened.key is not None and any(element[:2] in wanted for element in opened.elements):
                yield Subject("Pod", opened.key)

    async def made(self, *, anything: bool) -> None:
        """Pods that wait for their ports may live, and clients of others find them."""
        moved, self._moved = self._moved, set()
        if moved:
            self._flows.forget(self._serving(moved))
        woken, self._woken = self._woken, []
        for done in woken:
            if not done.done():
                done.set_result(None)

    def _serving(self, moved: Collection[tuple[bytes, int]]) -> Served:
        """Who has these UDP ports now. A Service comes first, then the port at one address, then the same at all."""
        ports = {port for _, port in moved}
        found: dict[tuple[bytes, int], frozenset[Record]] = {}
        for opened in self._opened.values():
            for at, leads in opened.datagrams():
                if at[1] in ports:
                    found[at] = found.get(at, frozenset()) | leads
        left = {at: found.get((EVERYWHERE, at[1]), frozenset()) for at in moved if at not in found}
        return {**found, **left, **self._before(ports)}


def _opened(attachment: Attachment) -> _Opened:
    addresses = tuple(each.ip for each in attachment.wires.addresses)
    elements = frozenset(host_port_elements(addresses, attachment.ports))
    key = attachment.pod.key if attachment.pod is not None else None
    return _Opened(str(attachment), key, addresses, attachment.ports, elements)


def _elements(rows: Collection[tuple[str, bytes, bytes]], *, data: bool) -> tuple[Elements, ...]:
    return tuple(Elements(name, key, value if data else b"") for name, key, value in sorted(rows))
