"""IPv4 headers in a tunnel's program."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.backend.udp.test_segments import Tcp, read, with_checksum

from percale.backend.udp.packets import (
    TOO_BIG,
    TTL_EXCEEDED,
    VnetHeader,
    complete,
    decrement_ttl,
    icmp_error,
    is_ipv4,
    ones_sum,
)
from percale.backend.udp.peers import TunnelPeers


def ipv4(payload: bytes, protocol: int = 17, fragment: int = 0, ttl: int = 64) -> bytes:
    header = struct.pack(
        ">BBHHHBBHII", 0x45, 0, 20 + len(payload), 9, fragment, ttl, protocol, 0, 0x0AF40102, 0x0AF40203
    )
    return with_checksum(header, 10) + payload


@given(st.binary(max_size=70))
def test_the_sum_is_of_16_bit_words(data: bytes) -> None:
    summed = with_checksum(b"\0\0" + data, 0)
    assert ones_sum(summed) == 0
    assert (ones_sum(data) + int.from_bytes(summed[:2], "big")) % 0xFFFF == 0


@given(st.integers(1, 255), st.binary(max_size=30))
def test_a_hop_less_keeps_the_header_valid(ttl: int, payload: bytes) -> None:
    """flannel's proxy lets a TTL of 0 wrap to 255; `tunnel.py` passes none below 2."""
    packet = bytearray(ipv4(payload, ttl=ttl))
    decrement_ttl(packet)
    assert (packet[8], ones_sum(packet[:20])) == (ttl - 1, 0)


def test_a_checksum_that_was_left_to_the_device() -> None:
    packet = bytearray(Tcp(b"hello").left_to_the_device())
    complete(packet, VnetHeader(1, 0, 0, 0, 20, 16))
    assert read(bytes(packet)) == Tcp(b"hello")


@pytest.mark.parametrize(("start", "offset"), [(0, 12), (19, 0), (20, 24), (44, 0), (65522, 16)])
def test_a_checksum_without_a_place(start: int, offset: int) -> None:
    packet = bytearray(Tcp(b"hello").packed())
    with pytest.raises(ValueError, match="no place"):
        complete(packet, VnetHeader(1, 0, 0, 0, start, offset))
    assert packet == Tcp(b"hello").packed()


def test_an_error_quotes_the_header_and_eight_bytes() -> None:
    packet = ipv4(b"0123456789")
    message = icmp_error(TOO_BIG, packet, 1400)
    assert message is not None
    assert (message[:2], ones_sum(message), message[6:8]) == (b"\x03\x04", 0, struct.pack(">H", 1400))
    assert message[8:] == packet[:28]


def test_no_error_about_an_error_or_a_later_fragment() -> None:
    assert icmp_error(TTL_EXCEEDED, ipv4(b"\x03\0\0\0", protocol=1)) is None
    assert icmp_error(TTL_EXCEEDED, ipv4(b"x" * 8, fragment=0x2003)) is None
    assert icmp_error(TTL_EXCEEDED, ipv4(b"\x08\0\0\0", protocol=1)) is not None
    assert icmp_error(TTL_EXCEEDED, ipv4(b"x" * 8, fragment=0x2000)) is not None


def test_what_is_no_whole_ipv4_packet() -> None:
    packet = ipv4(b"x" * 8)
    assert is_ipv4(packet)
    for wrong in (
        b"",
        packet[:19],
        packet[:-1],
        packet + b"x",
        b"\x60" + packet[1:],
        b"\x44" + packet[1:],
        b"\x4f" + packet[1:],
    ):
        assert not is_ipv4(wrong)


def test_the_peer_of_an_address() -> None:
    """The longest subnet wins."""
    peers = TunnelPeers({"10.244.2.0/24": "192.0.2.2", "10.244.0.0/16": "192.0.2.9", "10.244.2.64/26": "192.0.2.3"})
    found = [
        peers.of(bytes(address)) for address in ((10, 244, 2, 1), (10, 244, 2, 65), (10, 244, 9, 1), (10, 245, 0, 1))
    ]
    assert found == ["192.0.2.2", "192.0.2.3", "192.0.2.9", None]
