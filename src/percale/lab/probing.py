"""Is this port reachable from there? One real connection or datagram, from inside the asker's namespace. Called by `verbs`."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Literal

from percale.lab.inside import visited
from percale.render.objects import IPAddress

Word = Literal["allowed", "refused", "unreachable", "timeout"]

_WORDS: dict[int, Word] = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EACCES: "unreachable",
    errno.EPERM: "unreachable",
    errno.ETIMEDOUT: "timeout",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened, after how many seconds, and the kernel's word for it where there is one."""

    word: Word
    seconds: float
    reason: str | None = None


async def probe(
    namespace: Path, address: IPAddress, port: int, protocol: Literal["TCP", "UDP"], patience: float
) -> Outcome:
    """TCP: a connection is made. UDP: a datagram is answered. Raises OSError when it cannot even be tried."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    endpoint = await visited(namespace, lambda: socket.socket(family, kind | socket.SOCK_NONBLOCK))
    loop = asyncio.get_running_loop()
    with endpoint:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                await loop.sock_connect(endpoint, (str(address), port))
                if protocol == "UDP":
                    await loop.sock_sendall(endpoint, b"probe\n")
                    await loop.sock_recv(endpoint, 2048)
        except TimeoutError:
            return Outcome("timeout", time.monotonic() - begun)
        except OSError as error:
            word = _WORDS.get(error.errno or 0)
            if word is None:
                raise
            return Outcome(word, time.monotonic() - begun, os.strerror(error.errno or 0))
        return Outcome("allowed", time.monotonic() - begun)
