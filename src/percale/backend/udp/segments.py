"""TCP segments in bulk: splits what the kernel handed over as one packet, and joins what arrived in one read. Pure.

    from the device:  one packet of 64 KiB, with the payload of many ─▶ split ─▶ packets of one size, the last shorter
    from the socket:  packets of one size, the last shorter ─▶ join ─▶ for each run of one connection's segments, one packet

A header of ours costs what a whole packet costs: with numpy all headers of a read are made, or compared, together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from percale.backend.udp.packets import IPV4_HEADER, TCP, Buffer, VnetHeader, checksum, ones_sum

Octets = NDArray[np.uint8]

_FIN, _SYN, _RST, _PSH, _URG, _CWR = 0x01, 0x02, 0x04, 0x08, 0x20, 0x80
_TCP_HEADER = 20
"""Bytes without options."""
_FEWEST = 2
"""Packets of which some may be joined."""


def split(packet: Buffer, vnet: VnetHeader) -> tuple[Buffer, int]:
    """The segments of a TCP packet one after the other, and the bytes of each but the last. Raises ValueError: it is none."""
    octets = np.frombuffer(packet, np.uint8)
    ip, header = _headers(packet)
    size = vnet.segment
    if not size or header >= len(packet):
        raise ValueError("no segments")
    payload = octets[header:]
    full, rest = divmod(len(payload), size)
    count = full + bool(rest)
    rows = _rows(payload, size)
    numbers = np.arange(count, dtype=np.int64)
    lengths = np.full(count, header + size, np.int64)
    lengths[-1] = header + len(payload) - (count - 1) * size

    head = np.empty((count, header), np.uint8)
    head[:] = octets[:header]
    head[:-1, ip + 13] &= ~np.uint8(_FIN | _PSH)
    head[1:, ip + 13] &= ~np.uint8(_CWR)
    (first_id,) = struct.unpack_from(">H", packet, 4)
    (first_seq,) = struct.unpack_from(">I", packet, ip + 4)
    head[:, 2:4] = _words(lengths)
    head[:, 4:6] = _words(first_id + numbers)
    head[:, ip + 4 : ip + 8] = _big_endian(first_seq + numbers * size, ">u4", 4)
    head[:, 10:12] = 0
    head[:, ip + 16 : ip + 18] = 0
    head[:, 10:12] = _big_endian(_checksums(_sums(head[:, :ip])), ">u2", 2)
    pseudo = ones_sum(packet[12:20]) + TCP
    sums = _sums(head[:, ip:]) + _sums(rows) + pseudo + lengths - ip
    head[:, ip + 16 : ip + 18] = _big_endian(_checksums(sums), ">u2", 2)
    whole = np.hstack((head, rows[:, :size])).reshape(-1)
    return whole[: count * header + len(payload)].data, header + size


def join(data: Buffer, size: int) -> Iterator[tuple[VnetHeader, bytearray]]:
    """The packets of `size` bytes (the last may be shorter) of one read: neighbouring segments of a connection as one."""
    starts = range(0, len(data), size)
    for first, end in pairwise(_runs(data, size) if len(starts) >= _FEWEST else [*range(len(starts)), len(starts)]):
        whole = data[first * size : end * size]
        yield (VnetHeader(), bytearray(whole)) if end - first == 1 else _joined(whole, size)


def _runs(data: Buffer, size: int) -> list[int]:
    """Where runs of packets that can be joined begin, and the end of all."""
    rows = _rows(np.frombuffer(data, np.uint8), size)
    count = len(rows)
    everyone = list(range(count + 1))
    try:
        ip, header = _headers(data)
    except ValueError:
        return everyone
    last = len(data) - (count - 1) * size
    if size <= header or last <= header:
        return everyone
    head = rows[:, :header]
    kind = head[:, [0, 6, 7, 9, ip + 12]]  # what `_headers` has read
    lengths = np.full(count, size, np.int64)
    lengths[-1] = last
    pseudo = _sums(head[:, 12:20]) + TCP + lengths - ip
    valid = (_number(head[:, 2:4]) == lengths) & (_checksums(_sums(head[:, :ip])) == 0)
    valid &= (kind == kind[0]).all(axis=1) & (_checksums(_sums(rows[:, ip:]) + pseudo) == 0)
    same = head.copy()
    flags = same[:, ip + 13].copy()
    valid &= flags & (_FIN | _SYN | _RST | _URG) == 0
    for at in (slice(2, 6), slice(10, 12), slice(ip + 4, ip + 8), slice(ip + 13, ip + 14), slice(ip + 16, ip + 18)):
        same[:, at] = 0
    sequence = _number(head[:, ip + 4 : ip + 8])
    joined = (same[1:] == same[:-1]).all(axis=1) & valid[1:] & valid[:-1]
    joined &= (sequence[1:] - sequence[:-1]) & 0xFFFFFFFF == size - header
    joined &= (flags[1:] & ~np.uint8(_PSH) == flags[:-1]) & (flags[1:] & _CWR == 0)
    return [0, *(np.flatnonzero(~joined) + 1).tolist(), count]


def _joined(data: Buffer, size: int) -> tuple[VnetHeader, bytearray]:
    """These segments of one connection as one packet; its TCP checksum is left to the kernel."""
    ip, header = _headers(data)
    rows = _rows(np.frombuffer(data, np.uint8), size)
    payload = len(data) - len(rows) * header
    packet = bytearray(data[:header])
    packet += rows[:, header:size].tobytes()[:payload]
    packet[ip + 13] |= int(rows[-1, ip + 13]) & _PSH
    struct.pack_into(">H", packet, 2, header + payload)
    struct.pack_into(">H", packet, 10, 0)
    struct.pack_into(">H", packet, 10, checksum(packet[:ip]))
    pseudo = (ones_sum(packet[12:20]) + TCP + header + payload - ip) % 0xFFFF
    struct.pack_into(">H", packet, ip + 16, pseudo)
    return VnetHeader.of_tcp(ip, header, size - header), packet


def _headers(packet: Buffer) -> tuple[int, int]:
    """The bytes of the IP header, and those of both. Raises ValueError: no TCP that can be split or joined."""
    ip = (packet[0] & 0x0F) * 4 if len(packet) else 0
    if not IPV4_HEADER <= ip <= len(packet) - _TCP_HEADER:
        raise ValueError("no headers")
    if packet[0] >> 4 != 4 or packet[9] != TCP or struct.unpack_from(">H", packet, 6)[0] & 0x3FFF:
        raise ValueError("no TCP, or a fragment")
    header = ip + (packet[ip + 12] >> 4) * 4
    if header < ip + _TCP_HEADER:
        raise ValueError("no TCP header")
    return ip, header


def _rows(octets: Octets, size: int) -> Octets:
    """`size` bytes in each, zeros after the last; one more zero where `size` is odd, for rows are summed by words."""
    full, rest = divmod(len(octets), size)
    rows = np.zeros((full + bool(rest), size + size % 2), np.uint8)
    rows[:full, :size] = octets[: full * size].reshape(full, size)
    rows[full:, :rest] = octets[full * size :]
    return rows


def _sums(rows: Octets) -> NDArray[np.int64]:
    """The sum of each row's 16-bit words: little-endian ones, for speed, and then exchanged (RFC 1071, 2B)."""
    sums: NDArray[np.int64] = np.ascontiguousarray(rows).view("<u2").sum(axis=1, dtype=np.int64) % 0xFFFF
    return (sums >> 8) | (sums & 0xFF) << 8


def _checksums(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 for a valid header or segment, whose own is in the sum."""
    return (0xFFFF - sums % 0xFFFF) % 0xFFFF


def _words(values: NDArray[np.int64]) -> Octets:
    return _big_endian(values, ">u2", 2)


def _big_endian(values: NDArray[np.int64], kind: str, size: int) -> Octets:
    mask = (1 << 8 * size) - 1
    return (values & mask).astype(kind).view(np.uint8).reshape(-1, size)


def _number(octets: Octets) -> NDArray[np.int64]:
    """Each row's bytes as one big-endian number."""
    weights = 1 << 8 * np.arange(octets.shape[1] - 1, -1, -1, dtype=np.int64)
    return octets @ weights
