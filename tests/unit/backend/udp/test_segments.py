"""TCP segments in bulk, held against a plain reading of each packet."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.backend.udp import segments
from percale.backend.udp.packets import Buffer, VnetHeader, ones_sum

FIN, SYN, PSH, ACK, CWR = 0x01, 0x02, 0x08, 0x10, 0x80
TIMESTAMPS = bytes((1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2))


class Tcp(NamedTuple):
    """A TCP packet of IPv4 as fields."""

    payload: bytes
    flags: int = ACK
    seq: int = 1000
    ident: int = 7
    source: bytes = bytes((10, 244, 1, 2))
    port: int = 40000
    options: bytes = b""
    ttl: int = 63
    ip_options: bytes = b""

    @property
    def ip(self) -> int:
        return 20 + len(self.ip_options)

    @property
    def header(self) -> int:
        return self.ip + 20 + len(self.options)

    def packed(self) -> bytes:
        """With valid checksums."""
        offset = (20 + len(self.options)) // 4 << 4
        tcp = struct.pack(">HHIIBBHHH", self.port, 80, self.seq, 5, offset, self.flags, 512, 0, 0)
        tcp = with_checksum(tcp + self.options + self.payload, 16, self.pseudo(len(tcp + self.options + self.payload)))
        addresses = self.source + bytes((10, 244, 2, 3))
        first, length = 0x40 | self.ip // 4, self.ip + len(tcp)
        ip = struct.pack(">BBHHHBBH", first, 0, length, self.ident, 0x4000, self.ttl, 6, 0) + addresses
        return with_checksum(ip + self.ip_options, 10) + tcp

    def pseudo(self, length: int) -> int:
        return ones_sum(self.source + bytes((10, 244, 2, 3)) + struct.pack(">HH", 6, length))

    def left_to_the_device(self) -> bytes:
        """As the kernel hands it over: the pseudo header's sum in the checksum's place."""
        packet, at = self.packed(), self.ip + 16
        return packet[:at] + struct.pack(">H", self.pseudo(len(packet) - self.ip)) + packet[at + 2 :]


def with_checksum(data: bytes, at: int, start: int = 0) -> bytes:
    total = sum(int.from_bytes(word, "big") << 8 * (2 - len(word)) for word in chunks(data, 2)) + start
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + struct.pack(">H", 0xFFFF - total) + data[at + 2 :]


def chunks(data: Buffer, size: int) -> Iterator[bytes]:
    return (bytes(data[start : start + size]) for start in range(0, len(data), size))


def read(packet: bytes) -> Tcp:
    """Its fields; its checksums must be valid and its lengths right."""
    length, ident = struct.unpack_from(">HH", packet, 2)
    ip = (packet[0] & 0x0F) * 4
    port, _, seq, _, offset, flags = struct.unpack_from(">HHIIBB", packet, ip)
    header = ip + (offset >> 4) * 4
    assert length == len(packet)
    options, ip_options = packet[ip + 20 : header], packet[20:ip]
    found = Tcp(packet[header:], flags, seq, ident, packet[12:16], port, options, packet[8], ip_options)
    assert {ones_sum(packet[:ip]), ones_sum(struct.pack(">H", found.pseudo(length - ip)) + packet[ip:])} == {0}
    return found


packets = st.tuples(
    st.binary(min_size=1, max_size=6000),
    st.sampled_from([ACK, ACK | PSH, ACK | FIN, ACK | PSH | CWR]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.sampled_from([b"", TIMESTAMPS]),
    st.sampled_from([b"", bytes((1, 1, 1, 0)), bytes((7, 39, 4, *bytes(36), 0))]),
).map(lambda each: Tcp(each[0], each[1], each[2], each[3], options=each[4], ip_options=each[5]))


@given(packets, st.integers(1, 1500))
def test_segments_are_the_packet_in_parts(packet: Tcp, size: int) -> None:
    data, each = segments.split(packet.left_to_the_device(), VnetHeader.of_tcp(packet.ip, packet.header, size))
    parts = [read(part) for part in chunks(data, each)]
    assert b"".join(part.payload for part in parts) == packet.payload
    assert {len(part.payload) for part in parts[:-1]} <= {size}
    assert [part.seq for part in parts] == [(packet.seq + at * size) % 2**32 for at in range(len(parts))]
    assert [part.ident for part in parts] == [(packet.ident + at) % 2**16 for at in range(len(parts))]
    assert {part.flags & (FIN | PSH) for part in parts[:-1]} <= {0}
    assert {part.flags & CWR for part in parts[1:]} <= {0}
    assert parts[-1].flags | parts[0].flags == packet.flags
    assert {(part.options, part.ip_options) for part in parts} == {(packet.options, packet.ip_options)}


@given(packets.map(lambda each: each._replace(flags=each.flags & ~(FIN | CWR))), st.integers(1, 1500))
def test_what_was_split_is_joined_again(packet: Tcp, size: int) -> None:
    data, each = segments.split(packet.left_to_the_device(), VnetHeader.of_tcp(packet.ip, packet.header, size))
    ((vnet, joined),) = segments.join(bytes(data), each)
    if len(packet.payload) > size:
        assert vnet == VnetHeader.of_tcp(packet.ip, packet.header, size)
        assert bytes(joined) == packet.left_to_the_device()
    else:
        assert (vnet, bytes(joined)) == (VnetHeader(), packet.packed())


def joined_lengths(*each: bytes) -> list[int]:
    """Of the payloads, after packets of one size (the last may be shorter) came in one read."""
    found = segments.join(b"".join(each), len(each[0]))
    return [len(packet) - 40 for _, packet in found]


def test_only_neighbours_of_one_connection_are_joined() -> None:
    first, second, third = (Tcp(bytes(100), seq=1000 + 100 * at, ident=at) for at in range(3))
    assert joined_lengths(first.packed(), second.packed(), third.packed()) == [300]
    others = (
        third._replace(seq=1300),
        third._replace(port=40001),
        third._replace(source=bytes((10, 244, 1, 9))),
        third._replace(ttl=7),
        third._replace(flags=ACK | FIN),
        third._replace(flags=ACK | SYN),
        third._replace(flags=ACK | CWR),
    )
    for other in others:
        assert joined_lengths(first.packed(), second.packed(), other.packed()) == [200, 100], other
        assert joined_lengths(other.packed(), first.packed(), second.packed()) == [100, 200], other
    assert joined_lengths(first.packed(), second._replace(flags=ACK | PSH).packed()) == [200]


def test_a_packet_that_was_damaged_stays_by_itself() -> None:
    """Joined, it would get a checksum that makes it valid."""
    one, two, three = (Tcp(bytes(100), seq=1000 + 100 * at).packed() for at in range(3))
    for at in (10, 36, 90):
        damaged = two[:at] + bytes((two[at] ^ 1,)) + two[at + 1 :]
        found = list(segments.join(one + damaged + three, len(one)))
        assert [bytes(packet) for _, packet in found] == [one, damaged, three]


@pytest.mark.parametrize(("at", "value"), [(0, 0x46), (6, 0x20), (7, 1), (9, 17), (32, 0x60)])
def test_neighbours_of_another_kind_than_the_first_stay_by_themselves(at: int, value: int) -> None:
    """Their sums are valid where the first packet has its headers; read by their own header they are something else."""
    one, *others = (Tcp(bytes(100), seq=1000 + 100 * number).packed() for number in range(3))
    strange = [each[:at] + bytes((value,)) + each[at + 1 :] for each in others]
    strange = [with_checksum(each[:10] + bytes(2) + each[12:20], 10) + each[20:] for each in strange]
    if at > 20:
        blank = [each[:36] + bytes(2) + each[38:] for each in strange]
        strange = [each[:20] + with_checksum(each[20:], 16, Tcp(b"").pseudo(120)) for each in blank]
    found = list(segments.join(b"".join((one, *strange)), len(one)))
    assert [bytes(packet) for _, packet in found] == [one, *strange]


@pytest.mark.parametrize(
    "packet", [b"", bytes(20), b"\x4f" + bytes(50), Tcp(b"").packed(), b"\x65" + Tcp(b"x").packed()[1:]]
)
def test_what_cannot_be_split_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError, match="no "):
        segments.split(packet, VnetHeader.of_tcp(20, 40, 10))


@given(st.binary(min_size=1, max_size=400), st.integers(1, 200))
def test_anything_else_passes_as_it_is(data: bytes, size: int) -> None:
    assert [bytes(packet) for _, packet in segments.join(data, size)] == list(chunks(data, size))
