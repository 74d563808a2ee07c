"""Conntrack entries of one network namespace, over ctnetlink: found by address or mark, marked, and deleted.

    Conntrack.flows(EntryFilter(client=…)) ── GET, filtered in the kernel ─▶ ConntrackEntry ── CT_NEW with mark, mask ─▶ marked

`agent/policy/established_flows.py` marks flows that a policy now denies; the service proxier deletes datagram flows to removed
endpoints. A TCP entry that has seen a reply is never deleted: the next reply packet would begin a new connection in the other
direction. Blocking: for worker threads.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Message, Request, attribute, attributes, nested, u16_network, u32, u32_network
from percale.kernel.netns import CurrentNetns, NetnsExecutor

_NEW, _GET, _DELETE, _STATISTICS = 0x100, 0x101, 0x102, 0x105
_ENTRIES = 1

_ORIGINAL, _REPLY, _STATUS, _MARK, _ID, _ZONE, _MARK_MASK, _FILTER = 1, 2, 3, 8, 12, 18, 21, 25
_TUPLE_ADDRESSES, _V4_SOURCE = 1, 1
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_BY_SOURCE = 1

_PROTOCOL_INFO, _TCP, _TCP_STATE = 4, 1, 1
_ESTABLISHED = b"\x03"

_HEADER = struct.Struct(">BBH")
_PORTS = struct.Struct(">H6xH")
_WITH_PORTS = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_SCTP, socket.IPPROTO_UDPLITE})
_WIDTHS = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}
"""Bytes of an address, by family."""
_GONE = frozenset({errno.ENOENT})

SEEN_REPLY, ASSURED, SOURCE_TRANSLATED, DESTINATION_TRANSLATED, DYING = 0x2, 0x4, 0x10, 0x20, 0x200
"""Bits of a flow's status."""


class Tuple(NamedTuple):
    """One direction of a flow. Addresses are packed; ports are 0 where the protocol has none that we decode."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int


class ConntrackEntry(NamedTuple):
    """One entry of the table. `reply` is the direction of answers: from the destination after DNAT to the source after SNAT."""

    original: Tuple
    reply: Tuple
    status: int
    mark: int
    id: int
    zone: int
    name: bytes
    """The original direction in the kernel's encoding, which identifies the entry in requests."""

    @property
    def client(self) -> bytes:
        """The source, before SNAT."""
        return self.original.source

    @property
    def server(self) -> bytes:
        """The destination, after DNAT."""
        return self.reply.source

    @property
    def server_port(self) -> int:
        """The destination port, after DNAT."""
        return self.reply.source_port


class EntryFilter(Struct, frozen=True):
    """Selects flows: all fields that are set must match. The kernel filters, so that only these are copied.

    Addresses are of IPv4: for IPv6 the kernel's filter is inverted, it omits what is equal (seen in 6.18).
    """

    client: bytes | None = None
    server: bytes | None = None
    family: int | None = None
    """AF_INET or AF_INET6."""
    marked: int = 0
    """These bits of the mark are set."""
    zone: int | None = None


ALL = EntryFilter()
_FILTER_COSTS = 2000
"""Flows that are copied and checked in the time of one filtered query: the kernel walks the whole table twice, at 5 ms for
262,144 empty buckets, 11 ms with 100,000 flows in them."""


class Conntrack:
    """A socket in a namespace; not thread-safe."""

    def __init__(self, netns: NetnsExecutor | None = None) -> None:
        """In the namespace of `netns` (default: the caller's), which the caller closes. Raises OSError."""
        self._socket = (netns or CurrentNetns()).run(lambda: netlink.Socket(netlink.NETFILTER))

    def close(self) -> None:
        self._socket.close()

    def flows(self, entry_filter: EntryFilter = ALL) -> Iterator[ConntrackEntry]:
        """The selected flows. Raises OSError."""
        return filter(None, map(decode, self._socket.stream(_GET, _query(entry_filter))))

    def of(self, addresses: Collection[bytes]) -> Iterator[ConntrackEntry]:
        """The flows with one of these addresses as client or server, each once. Raises OSError."""
        ipv4 = {address for address in addresses if len(address) == 4}
        ipv6 = {address for address in addresses if len(address) == 16}
        if ipv4 and self.count() > _FILTER_COSTS * len(ipv4):
            yield from self._query_each(ipv4)
        elif ipv4:
            yield from self._scan(ipv4, socket.AF_INET)
        if ipv6:
            yield from self._scan(ipv6, socket.AF_INET6)

    def _query_each(self, addresses: Collection[bytes]) -> Iterator[ConntrackEntry]:
        """One filtered query per address and direction."""
        for address in addresses:
            yield from self.flows(EntryFilter(client=address))
            yield from (flow for flow in self.flows(EntryFilter(server=address)) if flow.client not in addresses)

    def _scan(self, addresses: Collection[bytes], family: int) -> Iterator[ConntrackEntry]:
        """Check all by their offset in the message, and decode only the matching ones."""
        width = _WIDTHS[family]
        for message in self._socket.stream(_GET, _query(EntryFilter(family=family))):
            body = message.body
            reply = _after(body, 4)
            if body[16 : 16 + width] in addresses or body[reply + 12 : reply + 12 + width] in addresses:
                flow = decode(message)
                if flow is not None:
                    yield flow

    def to(self, destinations: Collection[bytes], protocols: Collection[int]) -> Iterator[ConntrackEntry]:
        """The flows of these protocols to one of these destinations, before DNAT. Raises OSError."""
        for family, width in _WIDTHS.items():
            if any(len(each) == width for each in destinations):
                for message in self._socket.stream(_GET, _query(EntryFilter(family=family))):
                    body = message.body
                    if body[2 * width + 28] in protocols and body[20 + width : 20 + 2 * width] in destinations:
                        flow = decode(message)
                        if flow is not None:
                            yield flow

    def connections(self, endpoints: Collection[tuple[int, bytes]]) -> Counter[tuple[int, bytes]]:
        """The number of flows per protocol and packed address and port; of TCP only established ones."""
        found: Counter[tuple[int, bytes]] = Counter()
        for family, width in _WIDTHS.items():
            for message in self._socket.stream(_GET, _query(EntryFilter(family=family))):
                body = message.body
                reply = _after(body, 4)
                port = reply + 2 * width + 32
                endpoint = body[port - 8], body[reply + 12 : reply + 12 + width] + body[port : port + 2]
                if endpoint in endpoints and (endpoint[0] != socket.IPPROTO_TCP or _is_established(body, reply)):
                    found[endpoint] += 1
        return found

    def count(self) -> int:
        """How many flows there are. Raises OSError."""
        answer = self._socket.ask(_STATISTICS, _HEADER.pack(0, 0, 0))
        return _number(attributes(answer.body, 4), _ENTRIES) if answer is not None else 0

    def mark(self, flows: Iterable[ConntrackEntry], value: int, mask: int) -> list[OSError | None]:
        """Set these bits of the flows' marks; flows that have ended are ignored."""
        bits = u32_network(_MARK, value) + u32_network(_MARK_MASK, mask)
        return self._socket.request([Request(_NEW, 0, _name(flow) + bits, _GONE) for flow in flows])

    def delete(self, flows: Sequence[ConntrackEntry]) -> list[OSError | None]:
        """Delete entries, of TCP only unanswered ones: the next packet is evaluated and translated afresh."""
        assert not any(flow.original.protocol == socket.IPPROTO_TCP and flow.status & SEEN_REPLY for flow in flows), (
            "answered TCP flows are marked, not deleted"
        )
        return self._socket.request(
            [Request(_DELETE, 0, _name(flow) + u32_network(_ID, flow.id), _GONE) for flow in flows]
        )


def _family_of(address: bytes) -> int:
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


def _name(flow: ConntrackEntry) -> bytes:
    """Identifies the flow in a request."""
    zone = u16_network(_ZONE, flow.zone) if flow.zone else b""
    return _HEADER.pack(_family_of(flow.client), 0, 0) + nested(_ORIGINAL, flow.name) + zone


def _query(entry_filter: EntryFilter) -> bytes:
    by_address = entry_filter.client is not None or entry_filter.server is not None
    parts = [_HEADER.pack(socket.AF_INET if by_address else entry_filter.family or 0, 0, 0)]
    flags = []
    if entry_filter.client is not None:
        parts.append(_from(_ORIGINAL, entry_filter.client))
        flags.append(u32(_FILTER_ORIGINAL, _BY_SOURCE))
    if entry_filter.server is not None:
        parts.append(_from(_REPLY, entry_filter.server))
        flags.append(u32(_FILTER_REPLY, _BY_SOURCE))
    if flags:
        parts.append(nested(_FILTER, *flags))
    if entry_filter.marked:
        parts += (u32_network(_MARK, entry_filter.marked), u32_network(_MARK_MASK, entry_filter.marked))
    if entry_filter.zone is not None:
        parts.append(u16_network(_ZONE, entry_filter.zone))
    return b"".join(parts)


def _from(direction: int, source: bytes) -> bytes:
    return nested(direction, nested(_TUPLE_ADDRESSES, attribute(_V4_SOURCE, source)))


def decode(message: Message) -> ConntrackEntry | None:
    """A flow from its message; None when it is neither IPv4 nor IPv6."""
    width = _WIDTHS.get(message.body[0])
    if width is None:
        return None
    body = message.body
    second = _after(body, 4)
    third = _after(body, second)
    name = body[8:second]
    found = attributes(body, third)
    return ConntrackEntry(
        original=_tuple(name, width),
        reply=_tuple(body[second + 4 : third], width),
        status=_number(found, _STATUS),
        mark=_number(found, _MARK),
        id=_number(found, _ID),
        zone=_number(found, _ZONE),
        name=name,
    )


def _is_established(body: bytes, reply: int) -> bool:
    """Whether a TCP flow is established; `reply` is the offset of its reply tuple."""
    protocol_info = attributes(attributes(body, _after(body, reply)).get(_PROTOCOL_INFO, b""))
    return attributes(protocol_info.get(_TCP, b"")).get(_TCP_STATE) == _ESTABLISHED


def _after(body: bytes, offset: int) -> int:
    """The offset of the next attribute."""
    return offset + (int.from_bytes(body[offset : offset + 2], sys.byteorder) + 3 & ~3)


def _tuple(payload: bytes, width: int) -> Tuple:
    """A tuple decoded by offsets: source, destination, protocol, ports, each in an attribute, the first and the third nested.

    The kernel has always written them in this order. There may be 100,000 flows, and by attributes each takes 18 µs, so 8.
    """
    at = 2 * width + 20
    protocol = payload[at]
    ports = _PORTS.unpack_from(payload, at + 8) if protocol in _WITH_PORTS else (0, 0)
    return Tuple(payload[8 : 8 + width], payload[12 + width : 12 + 2 * width], protocol, *ports)


def _number(found: dict[int, bytes], kind: int) -> int:
    """A number in network order, 0 where it is missing."""
    return int.from_bytes(found.get(kind, b""), "big")
