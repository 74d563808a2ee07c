"""Answers on the ports of pods and outside hosts, from inside their namespaces, without a process in any of them.

    kubelet ─▶ serve(who, ports) ─▶ sockets made inside the namespace ─▶ the controller's event loop

TCP gets an HTTP response, UDP one datagram; both name who answers, where it is, and who asked, as seen from here. A port
that a program of the pod has bound is left to it, and bound again when it is free.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from percale.lab.pods.answer_log import AnswerLog
from percale.lab.process.netns_visit import visit_async

RETRY = 1.0
"""Seconds between attempts to bind a port that is in use."""
_IDLE_TIMEOUT = 10.0
_LONGEST_REQUEST = 65536
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50
_PKTINFO = struct.Struct("=16si")


class Port(NamedTuple):
    """The protocol is TCP or UDP."""

    number: int
    protocol: str


class Identity(Struct, frozen=True):
    """The pod or host that answers: `pod default/web-0` on node1, or `host outside`."""

    kind: str
    name: str
    node: str | None
    addresses: tuple[str, ...]

    def describe(self, client: str, server: str) -> str:
        """The answer's text."""
        lines = [f"{self.kind}: {self.name}"]
        lines += [f"node: {self.node}"] if self.node else []
        lines += [f"addresses: {' '.join(self.addresses)}", f"client: {client}", f"asked: {server}"]
        return "\n".join(lines) + "\n"


@dataclass(slots=True)
class _Sockets:
    """Open sockets of one identity."""

    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    servers: list[asyncio.Server] = field(default_factory=list)
    datagrams: list[socket.socket] = field(default_factory=list)


class Responder:
    """Used on one event loop."""

    def __init__(self) -> None:
        self.logs: dict[str, AnswerLog] = {}
        """By name of the pod or host."""
        self._sockets: dict[str, _Sockets] = {}

    async def serve(self, identity: Identity, namespace: Path, ports: Collection[Port]) -> None:
        """Answer on these ports as this identity until `stop`. Returns when those that are free are bound."""
        sockets = self._sockets[identity.name] = _Sockets()
        self.logs[identity.name] = AnswerLog()
        taken = await self._open(sockets, identity, namespace, frozenset(ports))
        if taken:
            sockets.tasks.append(asyncio.create_task(self._retry_taken(sockets, identity, namespace, taken)))

    def stop(self, name: str) -> None:
        """Close the sockets of this identity, if any."""
        sockets = self._sockets.pop(name, None)
        self.logs.pop(name, None)
        if sockets is None:
            return
        for task in sockets.tasks:
            task.cancel()
        for server in sockets.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for endpoint in sockets.datagrams:
            loop.remove_reader(endpoint)
            endpoint.close()

    async def _retry_taken(
        self, sockets: _Sockets, identity: Identity, namespace: Path, taken: frozenset[Port]
    ) -> None:
        while taken:
            await asyncio.sleep(RETRY)
            taken = await self._open(sockets, identity, namespace, taken)

    async def _open(
        self, sockets: _Sockets, identity: Identity, namespace: Path, ports: frozenset[Port]
    ) -> frozenset[Port]:
        """Bind these; returns those that are in use."""
        opened = await visit_async(namespace, lambda: [(port, _bind(port)) for port in sorted(ports)])
        loop, log = asyncio.get_running_loop(), self.logs[identity.name]
        for port, endpoint in opened:
            if endpoint is None:
                continue
            if port.protocol == "TCP":
                server = await loop.create_server(lambda: _Answer(identity, log), sock=endpoint, backlog=512)
                sockets.servers.append(server)
            else:
                sockets.datagrams.append(endpoint)
                loop.add_reader(endpoint, _answer_datagram, endpoint, identity, log)
        return frozenset(port for port, endpoint in opened if endpoint is None)


def _bind(port: Port) -> socket.socket | None:
    """A socket for both families, or for IPv4 where the kernel has no IPv6; None: the port is in use."""
    kind = (socket.SOCK_STREAM if port.protocol == "TCP" else socket.SOCK_DGRAM) | socket.SOCK_NONBLOCK
    for family, anything in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):  # noqa: S104 -- all of one pod
        try:
            endpoint = socket.socket(family, kind)
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
            continue
        try:
            if family == socket.AF_INET6:
                endpoint.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                endpoint.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            if port.protocol == "TCP":
                endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            endpoint.bind((anything, port.number))
        except OSError as error:
            endpoint.close()
            if error.errno == errno.EADDRINUSE:
                return None
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            continue
        return endpoint
    return None


class _Answer(asyncio.Protocol):
    """One TCP connection: answers any request with the identity, then closes."""

    def __init__(self, identity: Identity, log: AnswerLog) -> None:
        self._identity = identity
        self._log = log
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._idle_timer = asyncio.get_running_loop().call_later(_IDLE_TIMEOUT, transport.close)

    def data_received(self, data: bytes) -> None:
        """An HTTP request ends with an empty line, anything else with its first line."""
        self._request += data
        is_http = b" HTTP/" in self._request.partition(b"\n")[0]
        complete = b"\n\r\n" in self._request or b"\n\n" in self._request if is_http else b"\n" in self._request
        if not complete and len(self._request) < _LONGEST_REQUEST:
            return
        client, server = (_format_endpoint(self._transport.get_extra_info(end)) for end in ("peername", "sockname"))
        text = self._identity.describe(client, server).encode()
        if is_http:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
            text = head.encode() + (b"" if self._request.startswith(b"HEAD ") else text)
        self._transport.write(text)
        self._transport.close()
        self._log.add(client, server, "tcp", self._request)

    def connection_lost(self, _error: Exception | None) -> None:
        self._idle_timer.cancel()


def _answer_datagram(endpoint: socket.socket, identity: Identity, log: AnswerLog) -> None:
    """Answers from the address that the request was sent to: a node has several."""
    try:
        request, ancillary, _, client = endpoint.recvmsg(2048, socket.CMSG_SPACE(_PKTINFO.size))
    except OSError:
        return  # an ICMP error about an earlier answer
    asked, source = endpoint.getsockname(), []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            address, _ = _PKTINFO.unpack(content)
            asked = (str(ip_address(address)), asked[1])
            source = [(level, kind, _PKTINFO.pack(address, 0))]
    who, where = _format_endpoint(client), _format_endpoint(asked)
    try:
        endpoint.sendmsg([identity.describe(who, where).encode()], source, 0, client)
    except OSError:
        return  # the client has closed its socket
    log.add(who, where, "udp", request)


def _format_endpoint(address: tuple[str, int]) -> str:
    """`10.244.1.2:80` or `[fd00::2]:80`."""
    parsed = ip_address(address[0].partition("%")[0])
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return f"[{parsed}]:{address[1]}" if parsed.version == 6 else f"{parsed}:{address[1]}"
