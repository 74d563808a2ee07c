"""Frames as bytes, for a sender that lies: what no socket but a raw one would send. Pure; checksums are right unless said.

From the inside out: a segment (UDP, a TCP SYN, ICMP, a neighbour discovery message), an IP packet around it, a frame around
that, and tags or other wrappings around the frame.

    ethernet(ME, YOU, packet("10.244.1.7", "10.244.1.9", udp(4000, 53, b"hi")))
    tagged(frame, 0)                                                                  the same, with a priority tag
    ethernet(ME, YOU, packet("fe80::1", "fd00::9", neighbour_advertisement("fd00::8", ME), hops=255))
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

BROADCAST = "ff:ff:ff:ff:ff:ff"
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
VLAN, SERVICE_VLAN, PPPOE_SESSION = 0x8100, 0x88A8, 0x8864

HOP_BY_HOP, TCP, UDP, ROUTING, FRAGMENT, ICMP6, NO_NEXT, DESTINATION_OPTIONS = 0, 6, 17, 43, 44, 58, 59, 60
ICMP = 1
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT, REDIRECT = range(133, 138)
ECHO = {4: 8, 6: 128}
ASK, ANSWER = 1, 2
"""ARP's operations."""
SOURCE_MAC, TARGET_MAC, PREFIX = 1, 2, 3
"""Options of neighbour discovery."""


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def checksum(data: bytes) -> int:
    """The Internet's: the complement of the ones' complement sum of 16-bit words."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# Frames


def ethernet(source: str, destination: str, payload: bytes, kind: int | None = None) -> bytes:
    """A frame; the type of an IP packet is seen from its first four bits."""
    if kind is None:
        kind = {4: IPV4, 6: IPV6}[payload[0] >> 4]
    return mac_bytes(destination) + mac_bytes(source) + kind.to_bytes(2, "big") + payload


def tagged(frame: bytes, vlan: int = 0, kind: int = VLAN, priority: int = 0) -> bytes:
    """802.1Q, or 802.1ad by its `kind`; around an already tagged frame it is the outer one."""
    return frame[:12] + struct.pack(">HH", kind, priority << 13 | vlan) + frame[12:]


def snap(frame: bytes) -> bytes:
    """The same payload in a frame with a length instead of a type: 802.3, LLC and SNAP."""
    kind, payload = frame[12:14], frame[14:]
    body = b"\xaa\xaa\x03" + bytes(3) + kind + payload
    return frame[:12] + len(body).to_bytes(2, "big") + body


def pppoe(frame: bytes, session: int = 1) -> bytes:
    """An Ethernet frame's IP packet in a PPPoE session."""
    protocol = {IPV4: 0x0021, IPV6: 0x0057}[int.from_bytes(frame[12:14], "big")]
    payload = protocol.to_bytes(2, "big") + frame[14:]
    head = struct.pack(">HBBHH", PPPOE_SESSION, 0x11, 0, session, len(payload))
    return frame[:12] + head + payload


def arp(
    operation: int, mac: str, address: str, target: str, target_mac: str = "00:00:00:00:00:00", *, frame_mac: str = ""
) -> bytes:
    """The whole frame, broadcast unless it names the target's MAC; `frame_mac` is the frame's source if that is another."""
    body = struct.pack(">HHBBH", 1, IPV4, 6, 4, operation)
    body += mac_bytes(mac) + IPv4Address(address).packed + mac_bytes(target_mac) + IPv4Address(target).packed
    to = BROADCAST if target_mac == "00:00:00:00:00:00" else target_mac
    return ethernet(frame_mac or mac, to, body, ARP)


# Packets


@dataclass(frozen=True)
class Segment:
    """What an IP packet carries; the checksum, zero until then, is filled in when the addresses are known."""

    protocol: int
    body: bytes
    checksum_at: int | None = None

    def between(self, source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address) -> bytes:
        """The bytes on the wire between these two."""
        if self.checksum_at is None:
            return self.body
        pseudo = b""
        if self.protocol != ICMP:
            pseudo = source.packed + destination.packed + struct.pack(">II", len(self.body), self.protocol)
        at = self.checksum_at
        return self.body[:at] + (checksum(pseudo + self.body) or 0xFFFF).to_bytes(2, "big") + self.body[at + 2 :]


@dataclass(frozen=True)
class Extension:
    """An IPv6 extension header; `body` is all of it after the next header's number."""

    number: int
    body: bytes


def packet(
    source: str, destination: str, segment: Segment, *, hops: int = 64, extensions: Sequence[Extension] = ()
) -> bytes:
    """An IP packet of the addresses' family; `hops` is its TTL or hop limit."""
    sender, receiver = ip_address(source), ip_address(destination)
    payload = segment.between(sender, receiver)
    if isinstance(sender, IPv4Address):
        assert not extensions
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, hops, segment.protocol, 0)
        head += sender.packed + receiver.packed
        return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload
    following = segment.protocol
    for extension in reversed(extensions):
        payload = bytes((following,)) + extension.body + payload
        following = extension.number
    head = struct.pack(">IHBB", 6 << 28, len(payload), following, hops)
    return head + sender.packed + receiver.packed + payload


def options(number: int = DESTINATION_OPTIONS, words: int = 1) -> Extension:
    """Hop-by-hop or destination options of `words` times 8 bytes, with padding alone."""
    padding = 8 * words - 4
    body = bytes((words - 1,))
    while padding >= 0:
        size = min(padding, 255)
        body += bytes((1, size)) + bytes(size)
        padding -= size + 2
    return Extension(number, body)


def fragment(offset: int = 0, *, more: bool = False, identity: int = 1) -> Extension:
    """A fragment header; offset 0 without `more` is an atomic fragment."""
    return Extension(FRAGMENT, struct.pack(">BHI", 0, offset | more, identity))


def inside_ip(inner: bytes) -> Segment:
    """An IP packet as the payload of another."""
    return Segment({4: 4, 6: 41}[inner[0] >> 4], inner)


# Segments


def udp(source: int, destination: int, payload: bytes = b"") -> Segment:
    return Segment(UDP, struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload, 6)


def tcp_syn(source: int, destination: int, sequence: int = 1) -> Segment:
    return Segment(TCP, struct.pack(">HHIIBBHHH", source, destination, sequence, 0, 5 << 4, 0x02, 64240, 0, 0), 16)


def echo(version: int, payload: bytes = b"", *, identity: int = 1, sequence: int = 1) -> Segment:
    """An echo request of ICMP or ICMPv6."""
    body = struct.pack(">BBHHH", ECHO[version], 0, 0, identity, sequence) + payload
    return Segment(ICMP if version == 4 else ICMP6, body, 2)


def icmp_error(kind: int, code: int, quoted: bytes, word: int = 0) -> Segment:
    """About a packet, which it quotes; the word between is an MTU, a gateway or nothing."""
    body = struct.pack(">BBHI", kind, code, 0, word) + quoted
    return Segment(ICMP if quoted[0] >> 4 == 4 else ICMP6, body, 2)


def vxlan(vni: int, frame: bytes, *, source: int = 40000, port: int = 8472) -> Segment:
    return udp(source, port, struct.pack(">II", 0x08 << 24, vni << 8) + frame)


# Neighbour discovery; a receiver wants 255 hops


def discovery(kind: int, head: bytes = b"", *following: bytes, code: int = 0) -> Segment:
    """Any ICMPv6 message: `head` is what comes after its checksum, then options or whatever else."""
    return Segment(ICMP6, struct.pack(">BBH", kind, code, 0) + head + b"".join(following), 2)


def link_address(kind: int, mac: str) -> bytes:
    """The option that tells a MAC: `SOURCE_MAC` or `TARGET_MAC`."""
    return bytes((kind, 1)) + mac_bytes(mac)


def router_solicitation(mac: str | None = None) -> Segment:
    return discovery(ROUTER_SOLICITATION, bytes(4), *_mac_option(SOURCE_MAC, mac))


def router_advertisement(mac: str | None = None, *, prefix: str | None = None, lifetime: int = 1800) -> Segment:
    """A default router, and a /64 `prefix` for autoconfiguration."""
    offered = b""
    if prefix is not None:
        offered = struct.pack(">BBBBIII", PREFIX, 4, 64, 0xC0, 86400, 86400, 0) + IPv6Address(prefix).packed
    head = struct.pack(">BBHII", 64, 0, lifetime, 0, 0)
    return discovery(ROUTER_ADVERTISEMENT, head, *_mac_option(SOURCE_MAC, mac), offered)


def neighbour_solicitation(target: str, mac: str | None = None) -> Segment:
    """Without a `mac` it is the question whether an address is free."""
    return discovery(NEIGHBOUR_SOLICITATION, bytes(4) + IPv6Address(target).packed, *_mac_option(SOURCE_MAC, mac))


def neighbour_advertisement(
    target: str, mac: str | None = None, *, router: bool = False, solicited: bool = False, override: bool = True
) -> Segment:
    flags = router << 31 | solicited << 30 | override << 29
    head = flags.to_bytes(4, "big") + IPv6Address(target).packed
    return discovery(NEIGHBOUR_ADVERTISEMENT, head, *_mac_option(TARGET_MAC, mac))


def redirect(target: str, destination: str, mac: str | None = None) -> Segment:
    """`destination` is better reached by `target`."""
    head = bytes(4) + IPv6Address(target).packed + IPv6Address(destination).packed
    return discovery(REDIRECT, head, *_mac_option(TARGET_MAC, mac))


def solicited_node(address: str) -> tuple[str, str]:
    """The group of everybody whose address ends so, and its MAC."""
    group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(IPv6Address(address)) & 0xFFFFFF)
    return str(group), "33:33:" + group.packed[-4:].hex(":")


def link_local(mac: str) -> str:
    """The address that a kernel makes of a MAC."""
    packed = mac_bytes(mac)
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes((packed[0] ^ 2,)) + packed[1:3] + b"\xff\xfe" + packed[3:]))


def _mac_option(kind: int, mac: str | None) -> tuple[bytes, ...]:
    return () if mac is None else (link_address(kind, mac),)
