"""Asks addresses whether they answer an echo request (ping), all of them at once. Called by `peers.py`."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

from percale.kernel.icmp_echo import EchoSocket
from percale.model.addresses import IPAddress

_TRIES, _PATIENCE = 2, 0.25
"""Requests to each, and seconds for each, until it counts as silent."""


class Echo(NamedTuple):
    """A request to an address, in an IP packet of this size."""

    address: IPAddress
    size: int = 0


def answered(requests: Iterable[Echo]) -> set[Echo]:
    """Those that got an answer. Raises OSError without CAP_NET_RAW."""
    waiting = dict(enumerate(dict.fromkeys(requests)))
    found: set[Echo] = set()
    with ExitStack() as stack:
        sockets = {
            version: stack.enter_context(closing(EchoSocket(version)))
            for version in {echo.address.version for echo in waiting.values()}
        }
        for _ in range(_TRIES):
            for sequence, echo in waiting.items():
                sockets[echo.address.version].send(echo.address, sequence, echo.size)
            deadline = time.monotonic() + _PATIENCE
            while waiting and (left := deadline - time.monotonic()) > 0:
                for sequence in _replies(sockets.values(), left):
                    if sequence in waiting:
                        found.add(waiting.pop(sequence))
    return found


def _replies(sockets: Iterable[EchoSocket], seconds: float) -> Iterator[int]:
    readable, _, _ = select.select(list(sockets), [], [], seconds)
    for each in readable:
        yield from each.replies()
