"""The host ports of this node's pods, as their part of the table. The CNI's verbs open and close them; `node.py` makes it.

    ADD with portMappings ─▶ open ─▶ NodeTable ─▶ in the kernel ─▶ ADD answers        DEL ─▶ close

What was open before the agent started is in the records of the pods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from percale.agent.table import NodeTable
from percale.cni.records import Attachment
from percale.errors import StateError
from percale.ipam.addresses import Owner
from percale.render.contents import Edit, Elements
from percale.render.host_ports import HostPort, host_port_elements
from percale.render.objects import IPAddress


@dataclass(frozen=True, slots=True)
class _Opened:
    ports: tuple[HostPort, ...]
    elements: frozenset[tuple[str, bytes, bytes]]


class HostPorts:
    """All methods are called on the event loop."""

    spoken = True
    """Records are read before this is made."""

    def __init__(self, table: NodeTable, attachments: Iterable[Attachment]) -> None:
        self._table = table
        self._opened: dict[Owner, _Opened] = {
            each.owner: _opened((address.ip for address in each.wires.addresses), each.ports)
            for each in attachments
            if each.ports
        }
        self._shown: frozenset[tuple[str, bytes, bytes]] = frozenset()
        self._waiting: list[asyncio.Future[None]] = []
        self._woken: list[asyncio.Future[None]] = []
        table.add(self)

    async def open(self, owner: Owner, addresses: Iterable[IPAddress], ports: Collection[HostPort]) -> None:
        """The pod with these addresses is reached at these ports when this returns. Raises StateError."""
        if not ports:
            return
        for other, theirs in self._opened.items():
            if other != owner and (taken := [port for port in ports if port in theirs.ports]):
                raise StateError(f"{taken[0]} is taken", where=str(owner), hint=f"{other} has it")
        self._opened[owner] = _opened(addresses, ports)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._table.touch()
        await done

    def close(self, owner: Owner) -> None:
        """The pod is reached there no more; that it never was is no error."""
        if self._opened.pop(owner, None) is not None:
            self._table.touch()

    # This node's table

    def edit(self) -> Edit:
        """What has changed since the last call."""
        before, self._shown = self._shown, frozenset().union(*(each.elements for each in self._opened.values()))
        self._woken += self._waiting
        self._waiting = []
        return Edit(remove=_elements(before - self._shown, data=False), put=_elements(self._shown - before, data=True))

    def image(self) -> Edit:
        """All elements, from the static text alone."""
        return Edit(put=_elements(self._shown, data=True))

    async def made(self, *, anything: bool) -> None:
        """Pods that wait for their ports may live."""
        woken, self._woken = self._woken, []
        for done in woken:
            if not done.done():
                done.set_result(None)


def _opened(addresses: Iterable[IPAddress], ports: Iterable[HostPort]) -> _Opened:
    wanted = tuple(ports)
    return _Opened(wanted, frozenset(host_port_elements(addresses, wanted)))


def _elements(rows: Collection[tuple[str, bytes, bytes]], *, data: bool) -> tuple[Elements, ...]:
    return tuple(Elements(name, key, value if data else b"") for name, key, value in sorted(rows))
