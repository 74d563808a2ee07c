"""The lab's name server, in place of CoreDNS. Listens in its pod's namespace; `service.py` updates its zone.

    pod ─ UDP, TCP 53 ─▶ the Service kube-dns ─▶ pod kube-system/dns ─▶ Zone (lab/dns/records.py)

Names outside the cluster are the lab's hosts; all others do not exist. Messages are dnspython's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from percale.lab.dns.records import TTL, Record, Zone
from percale.lab.process.netns_visit import visit_async

PORT = 53
_LARGEST_DATAGRAM = 1232
"""Bytes without fragmentation on any path; longer answers use TCP. A client without EDNS accepts 512."""
_PLAIN_DATAGRAM = 512
_STREAM_TIMEOUT = 5.0
_MOST_ALIASES = 8
MOST_STREAMS = 128
"""TCP connections at a time: any pod may open some, and they take descriptors of the lab's."""


class NameServer:
    """Used on one event loop."""

    def __init__(self) -> None:
        self.zone = Zone((), ())
        """The cluster's records; replaced when the cluster changes."""
        self.hosts: Mapping[str, tuple[str, ...]] = {}
        """Addresses of machines outside the cluster, by name without a dot at the end."""
        self._datagrams: asyncio.DatagramTransport | None = None
        self._streams: asyncio.Server | None = None
        self._clients: dict[asyncio.StreamWriter, None] = {}
        """The open TCP connections, the oldest first."""

    async def serve(self, namespace: Path) -> None:
        """Listen on all addresses in this network namespace. Raises OSError."""
        datagrams, streams = await visit_async(namespace, _bind_sockets)
        loop = asyncio.get_running_loop()
        self._datagrams, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
        self._streams = await asyncio.start_server(self.serve_stream, sock=streams)

    def stop(self) -> None:
        """Close the sockets."""
        if self._datagrams is not None:
            self._datagrams.close()
        if self._streams is not None:
            self._streams.close()

    def answer(self, request: bytes, *, datagram: bool) -> bytes | None:
        """The response, truncated (TC) to fit a datagram; None for what is not a query."""
        try:
            query = dns.message.from_wire(request)
        except dns.exception.DNSException:
            return None
        if query.flags & dns.flags.QR:
            return None
        response = dns.message.make_response(query, recursion_available=True)
        limit = min(query.payload, _LARGEST_DATAGRAM) if query.edns >= 0 else _PLAIN_DATAGRAM
        try:
            if len(query.question) != 1 or query.opcode() != 0:
                response.set_rcode(dns.rcode.NOTIMP)
            else:
                self._fill(response, query)
            return response.to_wire(max_size=max(limit, _PLAIN_DATAGRAM) if datagram else 65535)
        except dns.exception.TooBig:
            response.flags |= dns.flags.TC
        except dns.exception.DNSException:  # an external name or a host name that no message can hold
            response.set_rcode(dns.rcode.SERVFAIL)
        response.answer.clear()
        return response.to_wire()

    def _fill(self, response: dns.message.Message, query: dns.message.Message) -> None:
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        if self.zone.is_authoritative_for(name):
            response.flags |= dns.flags.AA
        for _ in range(_MOST_ALIASES):
            known, records = self._lookup(name, kind)
            if not known:
                response.set_rcode(dns.rcode.NXDOMAIN)
                return
            for record in records:
                _add(response, record)
            if kind == "CNAME" or not records or records[0].type != "CNAME":
                return
            name = records[0].data

    def _lookup(self, name: str, kind: str) -> tuple[bool, tuple[Record, ...]]:
        if self.zone.is_authoritative_for(name):
            answer = self.zone.lookup(name, kind)
            return answer.known, answer.records
        addresses = self.hosts.get(name.rstrip(".").lower())
        if addresses is None:
            return False, ()
        wanted = {"A": 4, "AAAA": 6}.get(kind)
        found = [each for each in addresses if (6 if ":" in each else 4) == wanted]
        return True, tuple(Record(name, "A" if wanted == 4 else "AAAA", each) for each in found)

    async def serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Queries over one TCP connection, each prefixed by its length. One too many closes the oldest."""
        self._clients[writer] = None
        if len(self._clients) > MOST_STREAMS:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(_STREAM_TIMEOUT):
                while True:
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    answer = self.answer(await reader.readexactly(size), datagram=False)
                    if answer is None:
                        break
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            pass  # the client has closed the connection, or sends no more
        finally:
            self._clients.pop(writer, None)
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # which before Python 3.12 it does not say

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._server.answer(data, datagram=True)
        if answer is not None:
            self._transport.sendto(answer, addr)


def _bind_sockets() -> tuple[socket.socket, socket.socket]:
    sockets = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        made = socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", PORT))
        sockets.append(made)
    return sockets[0], sockets[1]


def _add(response: dns.message.Message, record: Record) -> None:
    response.answer.append(dns.rrset.from_text(record.name, TTL, "IN", record.type, record.data))
