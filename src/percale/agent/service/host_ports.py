"""Host ports of this node's pods, a section of the node's table. A `PodHook`: CNI ADD opens them, DEL closes them.

    ADD with portMappings ─▶ check ─▶ open ─▶ NodeTable ─▶ committed ─▶ ADD answers        DEL ─▶ close

Rejected: an address that this node does not have, a port that the agent itself or another pod uses, and at loopback a port on
which a local process listens. Elsewhere a pod's host port takes precedence over a local process, as with portmap; the status
reports it. Ports opened in previous runs are in the pods' records. A client that sends UDP from one port stays on its conntrack
entry even when its host port has moved: such entries are deleted (`conntrack_cleanup.py`). A node port of the same number takes
precedence over a host port: its flows belong to its Service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import ip_address
from itertools import chain
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from percale.agent.events import InvolvedObject
from percale.agent.problems import Problems
from percale.agent.service.conntrack_cleanup import ANY_ADDRESS, ConntrackCleaner, Served
from percale.agent.table_sections import NodeTable
from percale.cni.records import Attachment
from percale.errors import KernelError, StateError
from percale.ipam.address_pool import Owner
from percale.kernel.listeners import Listener, listeners
from percale.kernel.rtnl.dump import own_addresses
from percale.model.addresses import IPAddress
from percale.model.meta import ObjectKey
from percale.model.pod import Protocol
from percale.render.nft.objects import ElementBatch, Transaction
from percale.render.service.host_ports import HostPort, host_port_elements, reserved_elements
from percale.service.endpoint_selection import Record

T = TypeVar("T")

SOURCE = "host ports"
_LOOPBACK = ip_address("127.0.0.1")


class _Opened(Struct, frozen=True):
    pod: str
    key: ObjectKey | None
    addresses: tuple[IPAddress, ...]
    ports: tuple[HostPort, ...]
    """The requested ports, and those that result at loopback."""
    numbers: frozenset[tuple[int, Protocol]]
    elements: tuple[tuple[str, bytes, bytes], ...]
    listeners: tuple[tuple[HostPort, Listener], ...]
    """Local processes that listened on these ports when they were opened."""

    def datagrams(self) -> Iterator[tuple[tuple[bytes, int], frozenset[Record]]]:
        """Address (or ANY_ADDRESS) and number of each UDP port, and its endpoints."""
        for port in self.ports:
            if port.protocol == "UDP":
                at = ANY_ADDRESS if port.address is None or port.address.is_unspecified else port.address.packed
                endpoints = frozenset(address.packed + port.container_port.to_bytes(2) for address in self.addresses)
                yield (at, port.port), endpoints


class HostPorts:
    """All methods are called on the event loop."""

    synced = True
    """Records are read before this is made."""

    def __init__(
        self, table: NodeTable, attachments: Iterable[Attachment], flows: ConntrackCleaner, problems: Problems
    ) -> None:
        """Raises KernelError."""
        self._table = table
        self._conntrack_cleaner = flows
        self._problems = problems
        before = [each for each in attachments if each.ports]
        there = _read(listeners) if before else []
        self._opened: dict[Owner, _Opened] = {each.owner: _opened(each, there) for each in before}
        self._reserved: dict[str, frozenset[tuple[Protocol, int]]] = {}
        """The agent's own ports, by purpose."""
        self._current: dict[tuple[str, bytes], bytes] = {}
        """Data by set and key: unique keys, even if old records overlap."""
        self._datagrams = {at for each in self._opened.values() for at, _ in each.datagrams()}
        """UDP ports, with their address, opened or closed since the last `changes`."""
        self._datagrams_in_flight: set[tuple[bytes, int]] = set()
        """The same in the last `changes`."""
        self._foreign_change = False
        """The kernel may have lacked the rules, since the last `changes`."""
        self._service_endpoints: Callable[[Collection[int]], Served] = lambda ports: {}
        table.add(self)
        table.on_foreign_change(self._on_foreign_change)
        self._report_problems()

    def _on_foreign_change(self) -> None:
        self._foreign_change = True

    def reserve(self, purpose: str, ports: Iterable[tuple[Protocol, int]]) -> None:
        """Reserve ports for the agent itself, even if a pod has them; replaces the last ports of this purpose."""
        reserved = frozenset(ports)
        if self._reserved.get(purpose, frozenset()) != reserved:
            self._reserved[purpose] = reserved
            self._report_problems()
            self._table.request_sync()

    def set_service_endpoints(self, services: Callable[[Collection[int]], Served]) -> None:
        """`services` gives the endpoints of Services that use these UDP ports."""
        self._service_endpoints = services

    async def before_add(self, attachment: Attachment) -> None:
        """The pod is reachable at its host ports when this returns. Raises StateError, KernelError."""
        owner, ports = attachment.owner, attachment.ports
        if not ports:
            return
        there, own = await asyncio.to_thread(_node_sockets, ports)
        for port in ports:
            self._check(attachment, port, there, own)
        self._remove(owner)
        opened = self._opened[owner] = _opened(attachment, there)
        self._report_problems()
        self._datagrams |= {at for at, _ in opened.datagrams()}
        self._table.request_sync()
        await self._table.flush()

    def _check(self, attachment: Attachment, port: HostPort, there: Iterable[Listener], own: set[bytes]) -> None:
        """Raises StateError."""
        where = str(attachment)
        if (purpose := self._reserved_for(port)) is not None:
            raise StateError(f"{port} is the agent's own: {purpose}", where=where, hint="choose another host port")
        if port.address is not None and _is_named(port) and port.address.packed not in own:
            hint = "hostIP must be an address of the pod's node; without one it is at all of them"
            raise StateError(f"{port}: this node has no such address", where=where, hint=hint)
        if _is_loopback(port) and (listener := next((each for each in there if _takes(each, port)), None)) is not None:
            hint = "choose another host port"
            raise StateError(f"{port}: a process of this node listens at {_format(listener)}", where=where, hint=hint)
        for other, theirs in self._opened.items():
            same = (port.port, port.protocol) in theirs.numbers
            if same and other != attachment.owner and any(port.overlaps(each) for each in theirs.ports):
                raise StateError(f"{port} is taken", where=where, hint=f"{theirs.pod} has it")

    def _reserved_for(self, port: HostPort) -> str | None:
        return next((purpose for purpose, ports in self._reserved.items() if (port.protocol, port.port) in ports), None)

    def after_del(self, attachment: Attachment) -> None:
        """Close the pod's host ports; without any: no effect."""
        if self._remove(attachment.owner):
            self._report_problems()
            self._table.request_sync()

    def _remove(self, owner: Owner) -> bool:
        """Whether the pod had host ports."""
        gone = self._opened.pop(owner, None)
        if gone is None:
            return False
        self._datagrams |= {at for at, _ in gone.datagrams()}
        return True

    def _report_problems(self) -> None:
        """Pods that lost a port to the agent, and pods that take a local process's traffic."""
        messages = sorted(message for opened in self._opened.values() for message in self._port_problems(opened))
        if messages:
            self._problems.raise_(SOURCE, StateError("; ".join(messages), hint="give one of them another port"))
        else:
            self._problems.clear(SOURCE)

    def _port_problems(self, opened: _Opened) -> Iterator[str]:
        for port in opened.ports:
            if (purpose := self._reserved_for(port)) is not None:
                yield f"{opened.pod} is not reached at {port}, which is the agent's own: {purpose}"
        for port, listener in opened.listeners:
            yield f"{opened.pod} takes what comes to {port}; a process of this node listens at {_format(listener)}"

    # Table section

    def changes(self) -> Transaction:
        """Changes since the last call."""
        before, self._current = self._current, {}
        reserved = reserved_elements(port for ports in self._reserved.values() for port in ports)
        for name, key, data in chain(reserved, *(each.elements for each in self._opened.values())):
            self._current.setdefault((name, key), data)
        removed, added = before.items() - self._current.items(), self._current.items() - before.items()
        if self._foreign_change:
            self._foreign_change = False
            self._datagrams |= {at for opened in self._opened.values() for at, _ in opened.datagrams()}
        self._datagrams_in_flight |= self._datagrams
        self._datagrams = set()
        return Transaction(
            remove=tuple(ElementBatch(name, key) for (name, key), _ in sorted(removed)), put=_elements(added)
        )

    def snapshot(self) -> Transaction:
        """All elements, relative to the base chains."""
        return Transaction(put=_elements(self._current.items()))

    def involved_objects(self, part: Transaction) -> Iterator[InvolvedObject]:
        """The pods that these host ports belong to."""
        wanted = {(each.set, each.packed_keys) for each in part.put}
        for opened in self._opened.values():
            if opened.key is not None and any(element[:2] in wanted for element in opened.elements):
                yield InvolvedObject("Pod", opened.key)

    async def committed(self, *, changed: bool) -> None:
        """Delete stale UDP flows."""
        in_flight, self._datagrams_in_flight = self._datagrams_in_flight, set()
        if in_flight:
            self._conntrack_cleaner.delete_stale(self._serving(in_flight))

    def _serving(self, in_flight: Collection[tuple[bytes, int]]) -> Served:
        """The current endpoints of these UDP ports. A Service takes precedence, then a port at one address, then at any."""
        ports = {port for _, port in in_flight}
        found: dict[tuple[bytes, int], frozenset[Record]] = {}
        for opened in self._opened.values():
            for at, endpoints in opened.datagrams():
                if at[1] in ports:
                    found[at] = found.get(at, frozenset()) | endpoints
        left = {at: found.get((ANY_ADDRESS, at[1]), frozenset()) for at in in_flight if at not in found}
        return {**found, **left, **self._service_endpoints(ports)}


def _opened(attachment: Attachment, there: Iterable[Listener]) -> _Opened:
    addresses = attachment.wires.ips
    ports = (*attachment.ports, *_at_loopback(attachment.ports, there))
    elements = tuple(host_port_elements(addresses, ports))
    listening = [
        (port, each) for port in attachment.ports for each in there if _takes(each, port) and not each.is_at_loopback
    ]
    key = attachment.pod.key if attachment.pod is not None else None
    numbers = frozenset((each.port, each.protocol) for each in ports)
    return _Opened(str(attachment), key, addresses, ports, numbers, elements, tuple(listening))


def _at_loopback(ports: Collection[HostPort], there: Iterable[Listener]) -> Iterator[HostPort]:
    """A port at any address is at 127.0.0.1 too, unless a local process listens there or the pod maps that one itself."""
    mapped = {(each.port, each.protocol) for each in ports if each.address == _LOOPBACK}
    for port in ports:
        if port.is_everywhere and port.is_at_loopback and (port.port, port.protocol) not in mapped:
            here = replace(port, address=_LOOPBACK)
            if not any(_takes(each, here) for each in there):
                yield here


def _node_sockets(ports: Iterable[HostPort]) -> tuple[list[Listener], set[bytes]]:
    """The node's listening sockets, and its addresses if a port names one. Raises KernelError."""
    return _read(listeners), _read(own_addresses) if any(map(_is_named, ports)) else set()


def _read(source: Callable[[], T]) -> T:
    try:
        return source()
    except OSError as error:
        raise KernelError.from_os(error, where="this node's sockets") from error


def _takes(listener: Listener, port: HostPort) -> bool:
    """Whether the process receives packets to this port when no pod has it."""
    if (listener.port, listener.protocol) != (port.port, port.protocol):
        return False
    if port.is_everywhere:
        return listener.both or port.is_at(4 if len(listener.address) == 4 else 6)
    assert port.address is not None
    wanted = port.address.packed
    return wanted == listener.address or (
        listener.is_everywhere and (listener.both or len(listener.address) == len(wanted))
    )


def _is_loopback(port: HostPort) -> bool:
    return port.address is not None and port.address.is_loopback


def _is_named(port: HostPort) -> bool:
    """At one non-loopback address of the node."""
    return not port.is_everywhere and not _is_loopback(port)


def _format(listener: Listener) -> str:
    text = str(ip_address(listener.address))
    return f"[{text}]:{listener.port}" if ":" in text else f"{text}:{listener.port}"


def _elements(rows: Iterable[tuple[tuple[str, bytes], bytes]]) -> tuple[ElementBatch, ...]:
    return tuple(ElementBatch(name, key, data) for (name, key), data in sorted(rows))
