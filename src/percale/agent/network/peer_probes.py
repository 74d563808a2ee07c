"""Asks peers whether they answer: an echo request to each one's gateway, through the tunnel where there is one.

    Peers ─ set_targets(lease, gateways) ─▶ PeerProbes ─ ICMP echo ─▶ peers' kernels
      ▲───────── on_silent(lease, gateways without an answer) ──┘

Each is asked every five seconds, and in large clusters less often: so many in a second, whatever the cluster's size. One
that has not answered is asked again in the next second, until it counts as silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Protocol

from percale.agent.logging import Log
from percale.kernel.icmp_echo import EchoSocket
from percale.model.addresses import IPAddress

_TICK = 1.0
"""Seconds."""
REGULAR = 5
"""Ticks between two requests to a gateway that answers."""
PER_TICK = 10
SILENT_AFTER = 3
"""Unanswered requests in a row."""


class Echo(Protocol):
    """`kernel.icmp_echo.EchoSocket`."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...

    def send(self, address: IPAddress, sequence: int) -> None: ...

    def replies(self) -> Iterable[int]: ...


@dataclass(slots=True)
class _Target:
    """A gateway of a peer."""

    peer: str
    unanswered: int = 0
    """Requests since the last answer."""
    due: int = 0
    """The tick of the next request."""


class PeerProbes:
    """All methods are called on the event loop."""

    def __init__(self, log: Log, *, open_echo: Callable[[int], Echo] = EchoSocket) -> None:
        self.on_silent: Callable[[Mapping[str, tuple[IPAddress, ...]]], None] = lambda _gateways_by_peer: None
        """Called with peers and those of their gateways that do not answer, whenever these change."""
        self._log = log
        self._open_echo = open_echo
        self._echoes: dict[int, Echo | None] = {}
        """By IP version; None: requests cannot be sent."""
        self._gateways: dict[str, tuple[IPAddress, ...]] = {}
        """By peer."""
        self._targets: dict[IPAddress, _Target] = {}
        """The one that was asked last is last."""
        self._suspects: dict[IPAddress, None] = {}
        """Not silent yet, and the last request is unanswered."""
        self._asked: dict[int, IPAddress] = {}
        """By sequence number, those of the last tick that have not answered."""
        self._tick = 0
        self._sequence = count()

    def set_targets(self, peer: str, gateways: tuple[IPAddress, ...]) -> None:
        """The addresses at which this peer is to answer; none: it is no peer any more."""
        known = self._gateways.pop(peer, ())
        for address in set(known) - set(gateways):
            self._targets.pop(address, None)
            self._suspects.pop(address, None)
        if gateways:
            self._gateways[peer] = gateways
        for address in gateways:
            if address not in self._targets or self._targets[address].peer != peer:
                self._targets[address] = _Target(peer)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self.ask()
                await asyncio.sleep(_TICK)
        finally:
            loop = asyncio.get_running_loop()
            for echo in filter(None, self._echoes.values()):
                loop.remove_reader(echo)
                echo.close()

    def ask(self) -> None:
        """Count what was not answered, and ask the next ones."""
        self._report({peer for address in self._asked.values() if (peer := self._missed(address)) is not None})
        self._asked.clear()
        self._tick += 1
        for address in self._due():
            target = self._targets[address] = self._targets.pop(address)
            target.due = self._tick + REGULAR
            if (echo := self._echo(address.version)) is not None:
                sequence = next(self._sequence) & 0xFFFF
                self._asked[sequence] = address
                echo.send(address, sequence)

    def _due(self) -> Iterable[IPAddress]:
        """The suspects first, then those whose last request is longest ago."""
        chosen = dict.fromkeys(islice(self._suspects, PER_TICK))
        for address, target in self._targets.items():
            if len(chosen) >= PER_TICK or target.due > self._tick:
                break
            chosen[address] = None
        return chosen

    def _echo(self, version: int) -> Echo | None:
        if version not in self._echoes:
            try:
                echo = self._echoes[version] = self._open_echo(version)
            except OSError as error:
                self._echoes[version] = None
                self._log.warn("peers are not probed", version=version, reason=error.strerror)
            else:
                asyncio.get_running_loop().add_reader(echo, self._on_replies, echo)
        return self._echoes[version]

    def _on_replies(self, echo: Echo) -> None:
        answering = set()
        for sequence in echo.replies():
            address = self._asked.pop(sequence, None)
            target = self._targets.get(address) if address is not None else None
            if address is None or target is None:
                continue
            if target.unanswered >= SILENT_AFTER:
                answering.add(target.peer)
            target.unanswered = 0
            self._suspects.pop(address, None)
        self._report(answering)

    def _missed(self, address: IPAddress) -> str | None:
        """The peer, if this gateway of it is silent now."""
        target = self._targets.get(address)
        if target is None:
            return None
        target.unanswered += 1
        if target.unanswered < SILENT_AFTER:
            self._suspects[address] = None
        else:
            self._suspects.pop(address, None)
        return target.peer if target.unanswered == SILENT_AFTER else None

    def _report(self, peers: Iterable[str]) -> None:
        silent = {peer: tuple(filter(self._is_silent, self._gateways.get(peer, ()))) for peer in peers}
        if silent:
            self.on_silent(silent)

    def _is_silent(self, gateway: IPAddress) -> bool:
        return self._targets[gateway].unanswered >= SILENT_AFTER
