"""Hundreds of new flows at once, with real packets: which of them get through. `policy_wires.py` asks.

TCP: a connection to a listener. UDP: a datagram that a socket gets. ICMP: an echo that is answered. SCTP: an INIT chunk, written
here for this kernel may have no SCTP, that comes to the other side.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count

from tests.kernel.conftest import Space
from tests.kernel.inside import inside
from tests.unit.policy.oracle import Question

ROUNDS = (0.4, 0.1, 0.2, 0.4, 0.8)
"""Seconds for what should get through; what does not is tried again and again before it counts as denied."""
LINGER = 0.06
"""Seconds for what should not, once all has come that should."""
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ICMP = {4: socket.IPPROTO_ICMP, 6: socket.getprotobyname("ipv6-icmp")}
_ECHO, _ECHO_ANSWER = {4: 8, 6: 128}, {4: 0, 6: 129}
_SCTP = 132


def version_of(address: str) -> int:
    return 6 if ":" in address else 4


class Prober:
    """Listens at every address on these ports; one thread at a time."""

    def __init__(self, places: Mapping[str, Space], ports: Iterable[int]) -> None:
        self._places = places
        self._poll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._kept: list[socket.socket] = []
        self._raw: dict[tuple[str, str], socket.socket] = {}
        self._numbers = count(1)
        self._waiting: dict[int, Question] = {}
        """By number: what is on its way."""
        self._arrived: set[Question] = set()
        for address in places:
            self._listen(address, sorted(ports))

    def close(self) -> None:
        for kept in self._kept:
            kept.close()
        self._poll.close()

    def expect(self, questions: Collection[Question], allowed: Collection[Question]) -> set[Question]:
        """Those that get through."""
        first, *others = ROUNDS
        passed = self.attempt(questions, set(allowed), first)
        for seconds in others:
            if missing := set(allowed) - passed:
                passed |= self.attempt(missing, missing, seconds)
        return passed

    def attempt(self, questions: Iterable[Question], expected: set[Question], seconds: float) -> set[Question]:
        """One packet, or connection, for each."""
        self._arrived = set()
        own: list[socket.socket] = []
        try:
            for question in questions:
                own += self._send(question)
            end = time.monotonic() + seconds
            while not self._arrived.issuperset(expected) and (left := end - time.monotonic()) > 0:
                self._read(left)
            end = time.monotonic() + LINGER
            while (left := end - time.monotonic()) > 0:
                self._read(left)
        finally:
            self._waiting.clear()
            for each in own:
                self._forget(each)
        return self._arrived

    def _read(self, seconds: float) -> None:
        for descriptor, _ in self._poll.poll(seconds):
            if reader := self._readers.get(descriptor):
                reader()

    def _watch(self, watched: socket.socket, reader: Callable[[], None], events: int = select.EPOLLIN) -> None:
        watched.setblocking(False)
        self._readers[watched.fileno()] = reader
        self._poll.register(watched, events)

    def _forget(self, watched: socket.socket) -> None:
        if self._readers.pop(watched.fileno(), None) is not None:
            self._poll.unregister(watched)
        watched.close()

    def _socket(self, address: str, kind: int, protocol: int = 0) -> socket.socket:
        return inside(self._places[address], lambda: socket.socket(_FAMILIES[version_of(address)], kind, protocol))

    # The far side

    def _listen(self, address: str, ports: Iterable[int]) -> None:
        version = version_of(address)
        for port in ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                listener = self._socket(address, kind)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address, port))
                self._kept.append(listener)
                if kind == socket.SOCK_STREAM:
                    listener.listen(64)
                    self._watch(listener, lambda listener=listener: _drain(listener))  # type: ignore[misc]
                else:
                    self._watch(listener, lambda listener=listener: self._datagrams(listener))  # type: ignore[misc]
        for name, protocol, reader in (("ICMP", _ICMP[version], self._echoes), ("SCTP", _SCTP, self._chunks)):
            raw = self._raw[address, name] = self._socket(address, socket.SOCK_RAW, protocol)
            raw.bind((address, 0))
            self._kept.append(raw)
            self._watch(raw, lambda raw=raw, reader=reader, version=version: reader(raw, version))  # type: ignore[misc]

    def _datagrams(self, listener: socket.socket) -> None:
        for data in _received(listener):
            self._came(int.from_bytes(data, "big"))

    def _echoes(self, raw: socket.socket, version: int) -> None:
        for data in _received(raw):
            body = data[20:] if version == 4 else data
            if body[0] == _ECHO_ANSWER[version]:
                self._came(int.from_bytes(body[4:8], "big"))

    def _chunks(self, raw: socket.socket, version: int) -> None:
        for data in _received(raw):
            body = data[20:] if version == 4 else data
            self._came(int.from_bytes(body[16:20], "big"))

    def _came(self, number: int) -> None:
        question = self._waiting.get(number)
        if question is not None:
            self._arrived.add(question)

    # The near side

    def _send(self, question: Question) -> list[socket.socket]:
        """The sockets that are to be closed afterwards."""
        number = next(self._numbers)
        self._waiting[number] = question
        source, version = question.source, version_of(question.source)
        port = question.port or 0
        if question.protocol == "ICMP":
            _sent(self._raw[source, "ICMP"], echo(version, number), (question.destination, 0))
            return []
        if question.protocol == "SCTP":
            _sent(self._raw[source, "SCTP"], init_chunk(1024 + number % 60000, port, number), (question.destination, 0))
            return []
        near = self._socket(source, socket.SOCK_STREAM if question.protocol == "TCP" else socket.SOCK_DGRAM)
        near.bind((source, 0))
        if question.protocol == "UDP":
            _sent(near, number.to_bytes(8, "big"), (question.destination, port))
            return [near]
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        near.setblocking(False)
        near.connect_ex((question.destination, port))
        self._watch(near, lambda: self._connected(near, number), select.EPOLLOUT | select.EPOLLONESHOT)
        return [near]

    def _connected(self, near: socket.socket, number: int) -> None:
        if near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            self._came(number)


def _sent(near: socket.socket, data: bytes, destination: tuple[str, int]) -> None:
    """A neighbour that has not been found yet is like a packet that was lost: it is tried again."""
    with suppress(OSError):
        near.sendto(data, destination)


def _received(listener: socket.socket) -> Iterator[bytes]:
    with suppress(BlockingIOError):
        while True:
            yield listener.recv(2048)


def _drain(listener: socket.socket) -> None:
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()


def echo(version: int, number: int) -> bytes:
    """An ICMP echo request that carries a number in its identifier and sequence; the kernel sums up IPv6's itself."""
    head = struct.pack("!BBHI", _ECHO[version], 0, 0, number)
    return head[:2] + struct.pack("!H", internet_checksum(head)) + head[4:]


def internet_checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def init_chunk(source: int, destination: int, number: int) -> bytes:
    """An SCTP packet with one INIT chunk (RFC 9260, 3.3.2); the number is its initiate tag. Conntrack checks the sum."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, number, 65536, 1, 1, number)
    head = struct.pack("!HHI", source, destination, 0)
    return head + crc32c(head + bytes(4) + chunk).to_bytes(4, "little") + chunk


def crc32c(data: bytes) -> int:
    """Castagnoli's, as SCTP wants it."""
    value = 0xFFFF_FFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
    return value ^ 0xFFFF_FFFF
