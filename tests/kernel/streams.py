"""Many exchanges of numbered datagrams at once, while something changes: which of them were answered, and which were lost.

    client of each flow ─ number ─▶ far end, which sends it back ─▶ answered

A flow that is allowed is established with its first answer, and one that is denied never is. Tests of policies use it.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.kernel.inside import inside

EVERY = 0.003
"""Seconds between two rounds."""
LATE = 2.0
"""Seconds after which an answer does not come any more."""
PATIENCE = 30.0
MAGIC = b"stream"
"""What each datagram begins with."""
_NUMBERS = struct.Struct("!6sHI")
_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33


class FlowOf(NamedTuple):
    """From an address, which is the client's own if it is one of the namespace's, to a port."""

    source: str
    destination: str
    port: int


def datagrams(namespace: Path, address: str, port: int = 0) -> socket.socket:
    """A socket that never waits, in a namespace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = inside(namespace, lambda: socket.socket(family, socket.SOCK_DGRAM))
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    ((*_, place),) = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)  # it may have a scope
    made.bind(place)
    return made


class Background(ABC):
    """Runs in a thread of its own from `going` on."""

    def __init__(self) -> None:
        self._down = ExitStack()
        self._over = threading.Event()
        self.rounds = 0
        """How many have been sent."""

    @contextmanager
    def going(self) -> Iterator[None]:
        """As long as this lasts."""
        thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            self._down.close()

    @abstractmethod
    def _run(self) -> None:
        """Until `_over` is set."""


class Streams(Background):
    """Runs from `going` on, in a thread of its own."""

    def __init__(self, flows: Iterable[FlowOf], namespaces: Mapping[str, Path]) -> None:
        """`namespaces` are those of the addresses; where a destination has none, nobody answers there."""
        self.flows = tuple(flows)
        super().__init__()
        self._clients = [self._open(namespaces, flow.source, 0) for flow in self.flows]
        far_ends = {(flow.destination, flow.port) for flow in self.flows if flow.destination in namespaces}
        self._far_ends = [self._open(namespaces, *far_end) for far_end in far_ends]
        self._arrived: tuple[set[int], ...] = tuple(set() for _ in self.flows)
        self._answered: tuple[set[int], ...] = tuple(set() for _ in self.flows)

    def _open(self, namespaces: Mapping[str, Path], address: str, port: int) -> socket.socket:
        return self._down.enter_context(datagrams(namespaces[address], address, port))

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            number = self.rounds
            for index, (flow, client) in enumerate(zip(self.flows, self._clients, strict=True)):
                with suppress(OSError):  # a far end that is not there yet
                    client.sendto(_NUMBERS.pack(MAGIC, index, number), (flow.destination, flow.port))
            self.rounds += 1
            for far_end in self._far_ends:
                for data, client_address in _come(far_end):
                    _, index, number = _NUMBERS.unpack(data)
                    self._arrived[index].add(number)
                    far_end.sendto(data, client_address)
            for client in self._clients:
                for data, _ in _come(client):
                    _, index, number = _NUMBERS.unpack(data)
                    self._answered[index].add(number)

    # What happened

    def passing(self) -> set[FlowOf]:
        """Those whose last round was answered (the one before those that are under way)."""
        now = self.rounds
        _until(lambda: self.rounds >= now + 3, "the rounds go on")
        return {flow for flow, answered in zip(self.flows, self._answered, strict=True) if now in answered}

    def until_passing(self, wanted: set[FlowOf]) -> None:
        """These and no others, twice in a row."""
        end = time.monotonic() + PATIENCE
        while (found := self.passing()) != wanted or self.passing() != wanted:
            assert time.monotonic() < end, f"cut, not allowed: {wanted - found}; not cut: {found - wanted}"

    def lost(self, since: int, until: int, flows: Iterable[FlowOf]) -> dict[FlowOf, set[int]]:
        """Rounds of these flows that have no answer; those that are under way are given their time."""
        meant = set(range(since, until))
        end = time.monotonic() + LATE
        while (lost := self._missing(meant, flows)) and time.monotonic() < end:
            time.sleep(EVERY)
        return lost

    def _missing(self, meant: set[int], flows: Iterable[FlowOf]) -> dict[FlowOf, set[int]]:
        return {flow: found for flow in flows if (found := meant - self._answered[self.flows.index(flow)])}

    def arrived(self, since: int, until: int, flows: Iterable[FlowOf]) -> dict[FlowOf, set[int]]:
        """Rounds of these flows that came to the far end."""
        meant = range(since, until)
        return {flow: found for flow in flows if (found := self._arrived[self.flows.index(flow)].intersection(meant))}


def _come(end: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    with suppress(BlockingIOError, ConnectionRefusedError):
        while True:
            yield end.recvfrom(64)


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(EVERY)
