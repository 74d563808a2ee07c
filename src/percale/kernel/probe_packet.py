"""One probe packet, and how to tell it and its answer from all others on the way, inside of tunnels too; pure.

    TCP    a SYN whose sequence number is the token; an answer acknowledges token + 1
    UDP    a datagram that begins with the token; an answer has the ports of a request, turned round
    ICMP   an echo request that carries the token; the reply has it as well

A SYN changes nothing at the server: the client's kernel, which knows no such connection, answers its SYN-ACK by RST, so that
nobody accepts it. Used by `packet_tap.py` and `nftables/probe_trace.py`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPAddress

Protocol: TypeAlias = Literal["TCP", "UDP", "ICMP"]

_NUMBERS: dict[tuple[Protocol, int], int] = {
    ("TCP", 4): socket.IPPROTO_TCP,
    ("TCP", 6): socket.IPPROTO_TCP,
    ("UDP", 4): socket.IPPROTO_UDP,
    ("UDP", 6): socket.IPPROTO_UDP,
    ("ICMP", 4): socket.IPPROTO_ICMP,
    ("ICMP", 6): socket.IPPROTO_ICMPV6,
}
_HEADER = {4: 20, 6: 40}
"""Bytes of an IP header without options."""
_UDP, _ICMP, _VXLAN = 8, 8, 8 + 8 + 14
"""Bytes behind an outer IP header: of a tunnel over UDP, of an ICMP error, of vxlan with the inner Ethernet header."""
_TUNNELS = frozenset(header + own for header in _HEADER.values() for own in (0, _UDP, _VXLAN))
_ERRORS = frozenset(header + _ICMP for header in _HEADER.values())
_OUTER = tuple(sorted({0} | _TUNNELS | _ERRORS | {tunnel + error for tunnel in _TUNNELS for error in _ERRORS}))
"""Bytes of the network header before the probe's own: of tunnels, of ICMP errors that quote it, of both in either order."""
_ICMP_NUMBERS = frozenset((socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6))
_ECHO = {4: (8, 0), 6: (128, 129)}
_SEQUENCE, _ACKNOWLEDGEMENT, _PAYLOAD = 4, 8, 8
"""Offsets in TCP's header, and the length of UDP's and ICMP's."""
_DNS = 53
_RECURSION_DESIRED = b"\x01\x00"
_PORTS = struct.Struct(">HH")


class Position(NamedTuple):
    """Bytes that tell the probe, or an answer: at this offset of the network header."""

    offset: int
    value: bytes


class Outermost(NamedTuple):
    """What a packet begins with: its IP version, and the protocol behind that header."""

    version: int
    protocol: int

    @property
    def offset(self) -> int:
        """Where the header has the protocol."""
        return 9 if self.version == 4 else 6


class Header(NamedTuple):
    """An IP packet's ends. Ports are 0 where there are none; of ICMP the type and code, the echo's identifier is no matter."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int
    destination_port: int


class Found(NamedTuple):
    """The probe or an answer in a packet. `outer`: the header of that, where it is not the probe's own."""

    header: Header
    is_answer: bool
    detail: str
    """`SYN`, `echo reply`, …"""
    length: int
    """Of the IP packet, in bytes."""
    outer: Header | None = None
    error: tuple[int, int] | None = None
    """Type and code of the ICMP error that quotes it."""
    is_carried: bool = False
    """By a tunnel, whose packet `outer` is; else that is the ICMP error."""


class Probe(Struct, frozen=True):
    """The packet. `server_ports`: those that answers of UDP may come from, after DNAT too."""

    protocol: Protocol
    version: int
    token: int
    port: int
    """The destination's; 0 for ICMP."""
    server_ports: tuple[int, ...] = ()

    @classmethod
    def new(cls, protocol: Protocol, version: int, port: int, server_ports: tuple[int, ...], chance: bytes) -> Probe:
        """`chance`: four bytes that nobody else's packet has. Of a query to a name server the last two are its flags."""
        token = chance[:2] + _RECURSION_DESIRED if (protocol, port) == ("UDP", _DNS) else chance
        return cls(protocol, version, int.from_bytes(token, "big"), port, server_ports)

    @property
    def number(self) -> int:
        """The IP protocol's."""
        return _NUMBERS[self.protocol, self.version]

    @property
    def token_bytes(self) -> bytes:
        return self.token.to_bytes(4, "big")

    @property
    def payload(self) -> bytes:
        """What a datagram or an echo request carries."""
        if (
            self.protocol == "UDP" and self.port == _DNS
        ):  # a query for the root's NS records: a name server answers queries only
            return self.token_bytes + bytes.fromhex("0001 0000 0000 0000 00 0002 0001")
        return self.token_bytes + b"probe\n"

    def positions(self, outer: int = 0) -> Iterator[Position]:
        """Of what the token is in, behind so many bytes of outer headers."""
        at = outer + _HEADER[self.version]
        if self.protocol == "TCP":
            yield Position(at + _SEQUENCE, self.token_bytes)
            yield Position(at + _ACKNOWLEDGEMENT, ((self.token + 1) & 0xFFFFFFFF).to_bytes(4, "big"))
        else:
            yield Position(at + _PAYLOAD, self.token_bytes)

    def everywhere(self, *, answers: bool = False) -> dict[Outermost, tuple[Position, ...]]:
        """Behind all outer headers that there are, by what the packet begins with. `answers`: also UDP's without the token,
        which are known by their source port, as many others' packets are.
        """
        found: dict[Outermost, list[Position]] = {}
        for outermost, outer in self._outers():
            positions = list(self.positions(outer))
            if answers and self.protocol == "UDP":
                at = outer + _HEADER[self.version]
                positions += (Position(at, port.to_bytes(2, "big")) for port in self.server_ports)
            found.setdefault(outermost, []).extend(positions)
        return {
            outermost: tuple(sorted(positions, key=lambda each: each.offset + len(each.value)))
            for outermost, positions in found.items()
        }

    def _outers(self) -> Iterator[tuple[Outermost, int]]:
        """The bytes before the probe's own header, by what the packet begins with."""
        yield Outermost(self.version, self.number), 0
        for version, header in _HEADER.items():
            icmp = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
            inner = socket.IPPROTO_IPIP if self.version == 4 else socket.IPPROTO_IPV6
            for outer in (0, *_ERRORS):
                yield Outermost(version, inner), header + outer
                yield Outermost(version, socket.IPPROTO_UDP), header + _UDP + outer
                yield Outermost(version, socket.IPPROTO_UDP), header + _VXLAN + outer
            for outer in (0, *_TUNNELS):
                yield Outermost(version, icmp), header + _ICMP + outer

    def find(self, packet: bytes) -> Found | None:
        """The probe or what may be an answer in a packet, which begins with its network header."""
        for outer in _OUTER:
            if outer and len(packet) <= outer:
                return None
            inner = packet[outer:]
            if not inner or inner[0] >> 4 != self.version or not self._has_length(inner, outer):
                continue
            found = self._at(inner)
            if found is None:
                continue
            carrier = _header_of(packet) if outer else None
            if carrier is None:
                return found
            is_carried = carrier.protocol not in _ICMP_NUMBERS
            return found._replace(outer=carrier, error=_quoting(packet, outer), is_carried=is_carried)
        return None

    def _has_length(self, inner: bytes, outer: int) -> bool:
        """Whether it is an IP header with what we look at behind it."""
        return len(inner) >= _HEADER[self.version] + _PAYLOAD and (self.version == 6 or inner[0] == 0x45 or not outer)

    def _at(self, inner: bytes) -> Found | None:
        header = _header_of(inner)
        if header is None or header.protocol != self.number:
            return None
        at = _HEADER[self.version]
        length = ip_length(inner)
        if self.protocol == "TCP":
            request, answer = (inner[each.offset : each.offset + 4] == each.value for each in self.positions())
            flags = inner[at + 13] if len(inner) > at + 13 else 0x02
            return Found(header, not request, _flags(flags), length) if request or answer else None
        has_token = inner[at + _PAYLOAD : at + _PAYLOAD + 4] == self.token_bytes
        if self.protocol == "ICMP":
            if not has_token or inner[at] not in _ECHO[self.version]:
                return None
            is_reply = inner[at] == _ECHO[self.version][1]
            return Found(
                header._replace(source_port=0, destination_port=0),
                is_reply,
                f"echo {'reply' if is_reply else 'request'}",
                length,
            )
        is_request = has_token and header.source_port not in self.server_ports
        if not is_request and header.source_port not in self.server_ports:
            return None
        return Found(header, not is_request, "datagram", length)


def header_of(network: bytes, transport: bytes) -> Header | None:
    """Of a packet whose headers are given apart, as nft's traces do."""
    return _header_of(network[: _HEADER.get(network[0] >> 4, 0)] + transport) if network else None


def _header_of(packet: bytes) -> Header | None:
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        source, destination, protocol, at = packet[12:16], packet[16:20], packet[9], (packet[0] & 0xF) * 4
    elif version == 6 and len(packet) >= 40:
        source, destination, protocol, at = packet[8:24], packet[24:40], packet[6], 40
    else:
        return None
    ports = (0, 0)
    if protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) and len(packet) >= at + 4:
        ports = _PORTS.unpack_from(packet, at)
    return Header(ip_address(source), ip_address(destination), protocol, *ports)


def ip_length(packet: bytes) -> int:
    """Of an IP packet, by its header."""
    if packet[0] >> 4 == 4:
        return int.from_bytes(packet[2:4], "big")
    return int.from_bytes(packet[4:6], "big") + _HEADER[6]


def _quoting(packet: bytes, outer: int) -> tuple[int, int] | None:
    """Type and code of the ICMP error among the outer headers, which are so long."""
    for begin in (0, *(_TUNNELS & {outer - error for error in _ERRORS})):
        header = _header_of(packet[begin:])
        if header is not None and header.protocol in _ICMP_NUMBERS:
            at = begin + _HEADER[header.source.version]
            return packet[at], packet[at + 1]
    return None


def _flags(flags: int) -> str:
    names = [name for bit, name in ((0x02, "SYN"), (0x10, "ACK"), (0x04, "RST"), (0x01, "FIN")) if flags & bit]
    return "-".join(names) or "no flags"


def syn(source: IPAddress, source_port: int, destination: IPAddress, port: int, token: int) -> bytes:
    """A TCP header with its checksum (RFC 9293)."""
    header = struct.pack(">HHIIBBHHH", source_port, port, token, 0, 5 << 4, 0x02, 64240, 0, 0)
    pseudo = source.packed + destination.packed + struct.pack(">IHBB", len(header), 0, 0, socket.IPPROTO_TCP)
    return header[:16] + checksum(pseudo + header) + header[18:]


def echo_request(version: int, identifier: int, payload: bytes) -> bytes:
    """ICMPv6's checksum is left to the kernel."""
    header = struct.pack(">BBHHH", _ECHO[version][0], 0, 0, identifier, 1)
    sum_ = checksum(header + payload) if version == 4 else bytes(2)
    return header[:2] + sum_ + header[4:] + payload


def checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    return (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
