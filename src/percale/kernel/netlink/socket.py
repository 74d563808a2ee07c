"""Netlink: messages, attributes, and a blocking socket that sends many requests at once.

`link`, `route`, `tc`, `wireguard`, `conntrack` and `nftables/` build and read the messages; `rtnl/` and `nftables/` own sockets.
A message is a header (length, type, flags, sequence, port id), a fixed structure, and attributes (length, type, payload),
each padded to four bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from percale.kernel.socket_filter import attach_filter

ROUTE = 0
NETFILTER = 12
GENERIC = 16

REQUEST = 0x001
ACK = 0x004
DUMP_INTERRUPTED = 0x010
REPLACE = 0x100
EXCLUSIVE = 0x200
CREATE = 0x400
DUMP = 0x300
_CAPPED = 0x100
_ACK_TLVS = 0x200

ERROR = 2
DONE = 3
_EXT_ACK_TEXT = 1

_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_DROP_MEMBERSHIP = 2
_CAP_ACK = 10
_EXT_ACK = 11
_STRICT_CHECK = 12
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_BUFFER = 4 * 1024 * 1024
_RECEIVE = 256 * 1024
_MOST_PARTS = 1024
"""Of one send (IOV_MAX)."""
_ACK_COST = 2048
"""What one queued error answer takes of the receive buffer at the very most, in bytes."""
_PATIENCE = 30
"""Seconds until a silent kernel is an error."""
_DUMP_ATTEMPTS = 10

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_TYPE_MASK = 0x3FFF
NESTED = 0x8000


class Request(NamedTuple):
    """One message to the kernel; an errno in `forgiven` counts as success (e.g. what is to be deleted is gone already)."""

    type: int
    flags: int
    body: bytes
    forgiven: frozenset[int] = frozenset()


class Message(NamedTuple):
    """One message from the kernel; `port` is the port id of the request that caused it."""

    type: int
    flags: int
    sequence: int
    port: int
    body: bytes


class Failure(NamedTuple):
    """Why a transaction failed; `position` is the rejected request, −1 when it was all of them together."""

    position: int
    error: OSError


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A string attribute, with its closing zero."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    """An 8 bit attribute."""
    return attribute(kind, value.to_bytes(1, "little"))


def u32(kind: int, value: int) -> bytes:
    """A 32 bit attribute in the host's order."""
    return attribute(kind, struct.pack("=I", value))


def u16_network(kind: int, value: int) -> bytes:
    """A 16 bit attribute in network order."""
    return attribute(kind, value.to_bytes(2, "big"))


def u32_network(kind: int, value: int) -> bytes:
    """A 32 bit attribute in network order, as netfilter has them."""
    return attribute(kind, value.to_bytes(4, "big"))


def attribute_list(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes from `offset` on, in order, those of one type that come several times too."""
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from `offset` on, by type."""
    return dict(attribute_list(data, offset))


def number(payload: bytes) -> int:
    """An integer of any size in the host's order."""
    return int.from_bytes(payload, "little" if struct.pack("=H", 1)[0] else "big")


def string(payload: bytes) -> str:
    """A zero-ended string."""
    return payload.split(b"\0", 1)[0].decode(errors="replace")


def frame(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A whole message; the kernel fills in our port id."""
    return HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield Message(kind, flags, sequence, port, data[offset + 16 : offset + length])
        offset += (length + 3) & ~3


def message_error(message: Message) -> OSError | None:
    """The error that an ERROR or DONE message carries, with the kernel's own message if it has one."""
    code = -struct.unpack_from("=i", message.body)[0] if len(message.body) >= 4 else 0
    if code == 0:
        return None
    words = os.strerror(code)
    if message.flags & _ACK_TLVS:
        start = 4
        if message.type == ERROR:
            start += 16 if message.flags & _CAPPED else (HEADER.unpack_from(message.body, 4)[0] + 3) & ~3
        message_text = attributes(message.body, start).get(_EXT_ACK_TEXT)
        words = string(message_text).rstrip(".") if message_text else words
    return OSError(code, words)


class Socket:
    """A blocking netlink socket of the namespace that the calling thread is in; any thread may use it afterwards."""

    def __init__(self, protocol: int, groups: Iterable[int] = ()) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._lock = threading.Lock()
        self._sequence = 0
        # A kernel that does not answer ends in an error, not in a hanging thread.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _PATIENCE, 0))
        self._set_buffer(_SO_RCVBUFFORCE, socket.SO_RCVBUF)
        self._set_buffer(_SO_SNDBUFFORCE, socket.SO_SNDBUF)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        self._socket.bind((0, 0))
        self.port: int = self._socket.getsockname()[0]
        for group in groups:
            self.join(group)
        self._most_requests = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _ACK_COST
        self.most_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4
        """The size limit of one send."""

    def _set_buffer(self, force: int, option: int, size: int = _BUFFER) -> None:
        """As large as we may: without root the kernel's own maximum applies."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, option, size)

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def join(self, group: int) -> None:
        """Join a multicast group. Raises OSError."""
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def leave(self, group: int) -> None:
        """Leave a multicast group; what was received remains queued. Raises OSError."""
        self._socket.setsockopt(_SOL_NETLINK, _DROP_MEMBERSHIP, group)

    def receive(self, *, wait: bool = True) -> list[Message]:
        """The next datagram's messages. Raises OSError: ENOBUFS when some were lost, BlockingIOError without `wait`."""
        return list(messages(self._socket.recv(_RECEIVE, 0 if wait else socket.MSG_DONTWAIT)))

    def request(self, requests: Sequence[Request]) -> list[OSError | None]:
        """Send all, in order; one result each.

        Only the last one of a send asks for its acknowledgement: the kernel works in order and always reports errors,
        so silence about an earlier one means success.
        """
        results: list[OSError | None] = [None] * len(requests)
        with self._lock:
            for start, end in self._sends(requests):
                self._exchange(requests, results, start, end)
        return results

    def _sends(self, requests: Sequence[Request]) -> Iterator[tuple[int, int]]:
        """Runs of requests whose bytes and possible answers fit the socket's buffers."""
        start = size = 0
        for index, request in enumerate(requests):
            length = len(request.body) + 32
            if index > start and (index - start >= self._most_requests or size + length > self.most_bytes):
                yield start, index
                start, size = index, 0
            size += length
        if start < len(requests):
            yield start, len(requests)

    def send(self, *requests: Request) -> None:
        """In one send, which the kernel has processed when this returns; its answer is ignored. Raises OSError."""
        with self._lock:
            first = self._number(len(requests))
            frames = (frame(each.type, each.flags | REQUEST, n, each.body) for n, each in enumerate(requests, first))
            self._socket.send(b"".join(frames))

    def commit(self, begin: Request, requests: Sequence[Request], end: Request) -> Failure | None:
        """All requests between two brackets, in one send: all happen or none. The first failure, None on success."""
        with self._lock:
            first = self._number(len(requests) + 2)
            last = first + len(requests)
            out = [frame(begin.type, REQUEST, first, begin.body)]
            for sequence, (kind, flags, body, _) in enumerate(requests, first + 1):
                asked = flags | REQUEST | ACK if sequence == last else flags | REQUEST
                out += (HEADER.pack(16 + len(body), kind, asked, sequence, 0), body, _PADDING[len(body) & 3])
            out.append(frame(end.type, REQUEST, last + 1, end.body))
            self._send_whole(out)
            failure: Failure | None = None
            while True:
                for message in self.receive():
                    if message.type != ERROR or not first <= message.sequence <= last:
                        continue
                    if failure is None and (error := message_error(message)) is not None:
                        failure = Failure(message.sequence - first - 1, error)
                    if message.sequence in (first, last):
                        return failure

    def _send_whole(self, parts: list[bytes]) -> None:
        """In one send, of any size: a transaction cannot be split."""
        size = sum(map(len, parts))
        if size > self.most_bytes:
            self._set_buffer(_SO_SNDBUFFORCE, socket.SO_SNDBUF, max(_BUFFER, 2 * size))
        try:
            # A few large parts are megabytes that need no second copy.
            self._socket.sendmsg(parts if len(parts) <= _MOST_PARTS else (b"".join(parts),))
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            enough = f"sudo sysctl -w net.core.wmem_max={size}"
            raise OSError(errno.EMSGSIZE, f"{size} bytes are more than may be sent at once; {enough}") from error

    def _exchange(self, requests: Sequence[Request], results: list[OSError | None], start: int, end: int) -> None:
        first = self._number(end - start)
        last = first + end - start - 1
        out: list[bytes] = []
        for sequence, (kind, flags, body, _) in enumerate(requests[start:end], first):
            asked = flags | REQUEST | ACK if sequence == last else flags | REQUEST
            out += (HEADER.pack(16 + len(body), kind, asked, sequence, 0), body, _PADDING[len(body) & 3])
        self._socket.send(b"".join(out))
        while True:
            for message in self.receive():
                if message.type != ERROR or not first <= message.sequence <= last:
                    continue
                index = start + message.sequence - first
                error = message_error(message)
                results[index] = None if error is None or error.errno in requests[index].forgiven else error
                if message.sequence == last:
                    return

    def _number(self, count: int) -> int:
        """`count` sequence numbers in a row; the first of them."""
        if self._sequence + count > 0x7FFFFFFF:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first

    def ask(self, kind: int, body: bytes) -> Message | None:
        """The one answer to a request, None without one. Raises OSError."""
        with self._lock:
            sequence = self._number(1)
            self._socket.send(frame(kind, REQUEST | ACK, sequence, body))
            answer = None
            while True:
                for message in self.receive():
                    if message.sequence != sequence:
                        continue
                    if message.type != ERROR:
                        answer = message
                        continue
                    error = message_error(message)
                    if error is not None:
                        raise error
                    return answer

    def dump(self, kind: int, body: bytes) -> list[Message]:
        """A consistent dump; repeated when it was interrupted by a change. Raises OSError."""
        for _ in range(_DUMP_ATTEMPTS):
            found, interrupted = self._dump(kind, body)
            if not interrupted:
                return found
        return found

    def _dump(self, kind: int, body: bytes) -> tuple[list[Message], bool]:
        found: list[Message] = []
        interrupted = False
        for message in self._answers(kind, body):
            interrupted |= bool(message.flags & DUMP_INTERRUPTED)
            if message.type not in (ERROR, DONE):
                found.append(message)
                continue
            error = message_error(message)
            if error is not None and error.errno != errno.EINTR:
                raise error
            interrupted |= error is not None
        return found, interrupted

    def stream(self, kind: int, body: bytes) -> Iterator[Message]:
        """A dump as it arrives: for large tables that change all the time. Raises OSError."""
        for message in self._answers(kind, body):
            if message.type not in (ERROR, DONE):
                yield message
            elif (error := message_error(message)) is not None:
                raise error

    def _answers(self, kind: int, body: bytes) -> Iterator[Message]:
        """A dump's messages, up to the one that ends it."""
        with self._lock:
            sequence = self._number(1)
            self._socket.send(frame(kind, REQUEST | DUMP, sequence, body))
            while True:
                for message in self.receive():
                    if message.sequence != sequence:
                        continue
                    yield message
                    if message.type in (ERROR, DONE):
                        return

    def ignore(self, port: int, keep: Sequence[int] = ()) -> None:
        """Let the kernel drop the notifications that requests of this port caused, except those of the types to `keep`.

        A classic BPF program at the socket: load the port id (bytes 12–15) and, when it is this one, the type (bytes 4–5).
        Loads are big-endian, so the numbers we compare with are turned round.
        """
        load_word, load_half, equal, give = 0x20, 0x28, 0x15, 0x06
        types = [struct.unpack(">H", struct.pack("=H", kind))[0] for kind in keep]
        program = [(load_word, 0, 0, 12), (equal, 0, len(types) + 2, struct.unpack(">I", struct.pack("=I", port))[0])]
        program.append((load_half, 0, 0, 4))
        program += [(equal, len(types) - position, 0, kind) for position, kind in enumerate(types)]
        program += [(give, 0, 0, 0), (give, 0, 0, 0xFFFFFFFF)]
        attach_filter(self._socket, program)
