"""Tries one real connection or datagram from inside a network namespace, and looks names up there.

Called by `machine_verbs` and `probe_targets`. The answer of the lab's responder says which pod or host answered.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Literal

from msgspec import Struct

from percale.errors import NotFound
from percale.lab.api.icmp_errors import keep_icmp_errors, kept_error
from percale.lab.process.netns_visit import visit_async
from percale.model.addresses import IPAddress

Result = Literal["allowed", "refused", "unreachable", "timeout"]

_RESULTS: dict[int, Result] = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EACCES: "unreachable",
    errno.EPERM: "unreachable",
    errno.ETIMEDOUT: "timeout",
}


_REQUEST = b"GET / HTTP/1.0\r\nHost: lab\r\nConnection: close\r\n\r\n"
_DNS = 53
_QUESTION = bytes.fromhex("7065 0100 0001 0000 0000 0000 00 0002 0001")
"""A DNS query for the root's NS records: a name server answers queries only."""
_RESPONSE_TIMEOUT = 3.0
"""Seconds to wait for an HTTP response on an established connection: the server may not speak HTTP, or be slow."""
_LONGEST_ANSWER = 65536
_QUESTIONS = 8
"""To a name server that does not answer, in the time of a probe."""


class AnsweredBy(Struct, frozen=True):
    """The pod or host that answered, and the client's address and port as it saw them: see `responder`."""

    kind: str
    """pod or host"""
    name: str
    node: str | None
    client: str


class Outcome(Struct, frozen=True):
    """The result, its duration, and the kernel's error text where there is one."""

    result: Result
    seconds: float
    reason: str | None = None
    sender: IPAddress | None = None
    """Of the ICMP error; None: the client's own kernel had the reason."""
    answered: AnsweredBy | None = None

    @property
    def is_filtered(self) -> bool:
        """A rule of the client's own node has dropped it: the kernel says so of datagrams."""
        return self.result == "unreachable" and self.reason == os.strerror(errno.EPERM)


async def probe(
    namespace: Path, address: IPAddress, port: int, protocol: Literal["TCP", "UDP"], timeout_seconds: float
) -> Outcome:
    """TCP: allowed when a connection is established. UDP: when a datagram is answered. Raises OSError when it cannot be tried."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    endpoint = await visit_async(namespace, lambda: socket.socket(family, kind | socket.SOCK_NONBLOCK))
    loop = asyncio.get_running_loop()
    with endpoint:
        keep_icmp_errors(endpoint)
        started = time.monotonic()
        text = b""
        try:
            async with asyncio.timeout(timeout_seconds):
                await loop.sock_connect(endpoint, (str(address), port))
                if protocol == "UDP":
                    await loop.sock_sendall(endpoint, _QUESTION if port == _DNS else b"probe\n")
                    text = await loop.sock_recv(endpoint, 2048)
        except OSError as error:
            seconds, kept = time.monotonic() - started, kept_error(endpoint)
            number = error.errno or errno.ETIMEDOUT
            if isinstance(error, TimeoutError) and kept is not None and kept.number in _RESULTS:
                number = kept.number  # the answer was there in time, and this loop was not
            if number not in _RESULTS:
                raise
            reason = os.strerror(number) if number != errno.ETIMEDOUT else None
            return Outcome(_RESULTS[number], seconds, reason, kept.sender if kept is not None else None)
        seconds = time.monotonic() - started
        if protocol == "TCP":
            text = await _http_response(endpoint)
        return Outcome("allowed", seconds, answered=read_answer(text.decode(errors="replace")))


async def _http_response(endpoint: socket.socket) -> bytes:
    """The HTTP response on this connection, as far as there is one."""
    loop, text = asyncio.get_running_loop(), b""
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(_RESPONSE_TIMEOUT):
            await loop.sock_sendall(endpoint, _REQUEST)
            while len(text) < _LONGEST_ANSWER and (part := await loop.sock_recv(endpoint, _LONGEST_ANSWER)):
                text += part
    return text


def read_answer(text: str) -> AnsweredBy | None:
    """The responder's answer; None: another server's."""
    lines = text.rpartition("\r\n\r\n")[2].splitlines()
    fields = dict(line.split(": ", 1) for line in lines if ": " in line)
    kind = next((each for each in ("pod", "host") if each in fields), None)
    if kind is None or "client" not in fields:
        return None
    return AnsweredBy(kind, fields[kind], fields.get("node"), fields["client"])


def look_up(resolver: Path, name: str, timeout_seconds: float, hint: str) -> tuple[IPAddress, ...]:
    """Addresses of the name by this resolv.conf. Called inside the pod's namespace; blocks.

    Raises NotFound, and TimeoutError when no name server answers.
    """
    import dns.exception  # noqa: PLC0415 -- 100 ms, and only names need it
    import dns.resolver  # noqa: PLC0415

    found: list[IPAddress] = []
    try:
        stub_resolver = dns.resolver.Resolver(filename=str(resolver))
        stub_resolver.lifetime = timeout_seconds
        stub_resolver.timeout = (
            timeout_seconds / _QUESTIONS
        )  # a node that does not know the Service yet drops the first
        for kind in ("A", "AAAA"):
            with suppress(dns.resolver.NoAnswer):
                found += [ip_address(each.to_text()) for each in stub_resolver.resolve(name, kind, search=True)]
    except (dns.resolver.NXDOMAIN, dns.resolver.NoResolverConfiguration):
        pass
    except (dns.exception.Timeout, dns.resolver.NoNameservers) as error:
        raise TimeoutError from error
    if not found:
        raise NotFound(f"there is no name {name}", hint=hint)
    return tuple(found)
