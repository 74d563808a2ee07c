"""Sees a probe's packets at all devices of a network namespace, with the kernel's time. Used by `trace/observer.py`.

A packet socket with a filter of classic BPF: the kernel copies no other packet, and removes it with the process.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from msgspec import Struct

from percale.kernel import syscalls
from percale.kernel.probe_packet import Found, Outermost, Position, Probe, ip_length
from percale.kernel.socket_filter import attach_filter

_ALL_PROTOCOLS = 3
_OUTGOING, _TO_OTHERS = 4, 3
_WITH_ETHERNET = frozenset({1, 772})
"""ARPHRD_ETHER and ARPHRD_LOOPBACK; the other devices that we meet have no header of their own."""
_ETHERNET = 14
_SO_TIMESTAMPNS = 35
_TIME = struct.Struct("@ll")
_STAMP_DELAY, _STAMP_ATTEMPTS = 0.001, 200
"""Seconds between a packet's coming and its reading."""
_SNAP = 512
"""Bytes that are kept of a packet."""
_HARDWARE_TYPE = 0xFFFFF000 + 28
"""SKF_AD_OFF + SKF_AD_HATYPE."""
Instruction: TypeAlias = tuple[int, int, int, int]
_LOAD = {4: 0x20, 2: 0x28, 1: 0x30}
_EQUAL, _RETURN, _AND, _JUMP = 0x15, 0x06, 0x54, 0x05
_MOST = 1000
"""Packets of one reading."""


class Sighting(Struct, frozen=True):
    """A packet at a device. `time`: nanoseconds since the epoch."""

    time: int
    device: str
    outgoing: bool
    found: Found
    length: int
    """Of the whole IP packet, in bytes: the tunnel's, where there is one."""
    to_others: bool = False
    """Its MAC address is not this device's."""
    source_mac: str | None = None
    destination_mac: str | None = None

    @property
    def is_answer(self) -> bool:
        """An answer, or an ICMP error in its place; not inside of a tunnel."""
        return not self.found.is_carried and (self.found.is_answer or self.found.error is not None)


class PacketTap:
    """Open until `close`."""

    def __init__(self, probe: Probe) -> None:
        """In the caller's namespace. Raises OSError: without CAP_NET_RAW."""
        self._probe = probe
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.setblocking(False)
            attach_filter(self._socket, _program(probe.everywhere(answers=True)))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            syscalls.bind_packet_socket(self._socket.fileno(), _ALL_PROTOCOLS)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def sightings(self) -> Iterator[Sighting]:
        """Since the last call. Raises OSError."""
        for _ in range(_MOST):
            try:
                frame, ancillary, _, address = self._socket.recvmsg(_SNAP, socket.CMSG_SPACE(_TIME.size))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENETDOWN:  # of one device
                    continue
                raise
            seen = self._decode(frame, ancillary, address)
            if seen is not None:
                yield seen

    def _decode(
        self, frame: bytes, ancillary: list[tuple[int, int, bytes]], address: tuple[str, int, int, int, bytes]
    ) -> Sighting | None:
        device, _, kind, hardware, _ = address
        ethernet = _ETHERNET if hardware in _WITH_ETHERNET else 0
        packet = frame[ethernet:]
        found = self._probe.find(packet) if packet else None
        if found is None:
            return None
        stamp = next(content for _, name, content in ancillary if name == _SO_TIMESTAMPNS)
        return Sighting(
            _nanoseconds(stamp),
            device,
            kind == _OUTGOING,
            found,
            ip_length(packet),
            kind == _TO_OTHERS,
            frame[6:12].hex(":") if ethernet else None,
            frame[:6].hex(":") if ethernet else None,
        )


def wait_timestamps() -> None:
    """Until the kernel stamps incoming packets: it begins some time after the first tap is open, and what comes in before has
    the time at which it is read. Called where a loopback device is up; without one, nothing is waited for.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as own:
        own.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        own.settimeout(_STAMP_DELAY)
        own.bind(("127.0.0.1", 0))
        for _ in range(_STAMP_ATTEMPTS):
            own.sendto(b"", own.getsockname())
            time.sleep(_STAMP_DELAY)
            before = time.time_ns()
            _, ancillary, _, _ = own.recvmsg(1, socket.CMSG_SPACE(_TIME.size))
            if any(_nanoseconds(content) < before for _, name, content in ancillary if name == _SO_TIMESTAMPNS):
                return


def _nanoseconds(stamp: bytes) -> int:
    seconds, rest = _TIME.unpack(stamp)
    return int(seconds * 1_000_000_000 + rest)


def _program(positions: Mapping[Outermost, Sequence[Position]]) -> list[Instruction]:
    """Keeps a packet with one of these: by the device's kind, then by the packet's version and protocol.

    Loads relative to the network header would take the kernel's slow path: each packet would cost 1 µs more.
    """
    behind_ethernet, plain = (_by_protocol(positions, base) for base in (_ETHERNET, 0))
    dispatch = [(_LOAD[4], 0, 0, _HARDWARE_TYPE)]
    kinds = sorted(_WITH_ETHERNET)
    for left, kind in zip(range(len(kinds), 0, -1), kinds, strict=True):
        dispatch.append((_EQUAL, left, 0, kind))
    return [*dispatch, (_JUMP, 0, 0, len(behind_ethernet)), *behind_ethernet, *plain]


def _by_protocol(positions: Mapping[Outermost, Sequence[Position]], base: int) -> list[Instruction]:
    """Each block ends the program where it applies, and is jumped over where it does not."""
    program: list[Instruction] = []
    for outermost, places in positions.items():
        block = _block(places, base)
        program += (
            (_LOAD[1], 0, 0, base),
            (_AND, 0, 0, 0xF0),
            (_EQUAL, 0, 2, outermost.version << 4),
            (_LOAD[1], 0, 0, base + outermost.offset),
            (_EQUAL, 1, 0, outermost.protocol),
            (_JUMP, 0, 0, len(block)),
            *block,
        )
    return [*program, (_RETURN, 0, 0, 0)]


def _block(places: Sequence[Position], base: int) -> list[Instruction]:
    """Where a packet ends, the program does: what lies in front is looked at first."""
    instructions: list[Instruction] = []
    for left, (offset, value) in zip(range(len(places), 0, -1), places, strict=True):
        instructions.append((_LOAD[len(value)], 0, 0, base + offset))
        instructions.append((_EQUAL, 2 * left - 1, 0, int.from_bytes(value, "big")))
    return [*instructions, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, _SNAP)]
