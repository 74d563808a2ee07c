"""IPv4 packets in a tunnel's program: headers, checksums, and the header that a TUN device puts before each packet. Pure."""

from __future__ import annotations

import struct
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview

IPV4_HEADER, TCP, ICMP = 20, 6, 1
"""Bytes without options; protocol numbers."""
TTL_EXCEEDED, NET_UNREACHABLE, TOO_BIG = (11, 0), (3, 0), (3, 4)
"""Types and codes of ICMP (RFC 792)."""

_ECHO_REQUEST = b"\x08"
_VNET = struct.Struct("=BBHHHH")
_NEEDS_CHECKSUM, GSO_TCP4 = 1, 1


class VnetHeader(NamedTuple):
    """struct virtio_net_hdr: what the kernel left to do in this packet, or what it may leave to the next device."""

    flags: int = 0
    gso_type: int = 0
    header: int = 0
    segment: int = 0
    """Bytes of payload of each TCP segment in this packet."""
    checksum_start: int = 0
    checksum_offset: int = 0

    @property
    def needs_checksum(self) -> bool:
        """Only the sum of the pseudo header is in the checksum's place."""
        return bool(self.flags & _NEEDS_CHECKSUM)

    def pack(self) -> bytes:
        return _VNET.pack(*self)

    @classmethod
    def of(cls, frame: Buffer) -> VnetHeader:
        """That of a frame from the device."""
        return cls(*_VNET.unpack_from(frame))

    @classmethod
    def of_tcp(cls, ip_header: int, header: int, segment: int) -> VnetHeader:
        """For TCP segments joined into one packet, for the kernel to split again where it must."""
        return cls(_NEEDS_CHECKSUM, GSO_TCP4, header, segment, ip_header, 16)


VNET_HEADER = _VNET.size
PLAIN = VnetHeader().pack()
"""Before a packet that is complete."""


def ones_sum(data: Buffer) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071): 2¹⁶ is 1 modulo 65535. An odd last byte is a word's first."""
    number = int.from_bytes(data, "big")
    return (number << 8 if len(data) % 2 else number) % 0xFFFF


def checksum(data: Buffer, start: int = 0) -> int:
    """Of data and what `start` sums up already. Never 0, which stands for none in UDP."""
    return 0xFFFF - (ones_sum(data) + start) % 0xFFFF


def complete(packet: bytearray | memoryview, vnet: VnetHeader) -> None:
    """Put the checksum that the kernel left to the device; the pseudo header's sum is in its place.

    Raises ValueError: there is no such place. A pod's own packets may come with such a header (packet(7), PACKET_VNET_HDR).
    """
    at = vnet.checksum_start + vnet.checksum_offset
    if vnet.checksum_start < IPV4_HEADER or at + 2 > len(packet):
        raise ValueError("no place for a checksum")
    struct.pack_into(">H", packet, at, checksum(packet[vnet.checksum_start :]))


def decrement_ttl(packet: bytearray | memoryview) -> None:
    """One hop less, the header's checksum with it (RFC 1624)."""
    packet[8] -= 1
    (before,) = struct.unpack_from(">H", packet, 10)
    after = before + 0x100
    struct.pack_into(">H", packet, 10, (after & 0xFFFF) + (after >> 16))


def icmp_error(kind: tuple[int, int], about: Buffer, mtu: int = 0) -> bytes | None:
    """The message about a packet; None where RFC 1122 (3.2.2) has none: about an ICMP error, about a later fragment."""
    header = (about[0] & 0x0F) * 4
    if int.from_bytes(about[6:8], "big") & 0x1FFF or (about[9] == ICMP and about[header : header + 1] != _ECHO_REQUEST):
        return None
    body = struct.pack(">BBHHH", *kind, 0, 0, mtu) + bytes(about[: header + 8])
    return body[:2] + struct.pack(">H", checksum(body)) + body[4:]


def is_ipv4(packet: Buffer) -> bool:
    """A whole IPv4 packet, as far as its header tells."""
    if len(packet) < IPV4_HEADER or packet[0] >> 4 != 4:
        return False
    header, length = (packet[0] & 0x0F) * 4, int.from_bytes(packet[2:4], "big")
    return IPV4_HEADER <= header <= length == len(packet)
