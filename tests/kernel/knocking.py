"""Datagrams that must not arrive, each a new flow, again and again while something changes; which of them did, and when.

stranger ─ a new port each time ────────────────▶ server     plain      policies drop it
         ─ likewise, to a Service ──────────────▶            service    policies drop it behind the translation
         ─ a friend's address as the source ────▶            spoofed    the guard drops it
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tests.kernel.streams import PATIENCE, Background, datagrams

from percale.kernel.netns import NetnsThread

EVERY = 0.002
"""Seconds between two rounds."""


class Knocker:
    """Sends from a namespace, by a new socket each time."""

    def __init__(self, namespace: Path, target: str, port: int) -> None:
        self._target = target, port
        with namespace.open() as entered:
            self._thread = NetnsThread(entered.fileno())

    def __call__(self, mark: bytes) -> None:
        with self._thread.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as made:
            made.sendto(mark, self._target)

    def close(self) -> None:
        self._thread.close()


class Knocking(Background):
    """What is sent again and again, and what of it arrives."""

    def __init__(self, server: Path, address: str, port: int, knocks: Mapping[str, Callable[[bytes], object]]) -> None:
        self._knocks = {name.encode(): knock for name, knock in knocks.items()}
        super().__init__()
        self._door = self._down.enter_context(datagrams(server, address, port))
        self.arrived: list[tuple[str, float]] = []
        """What did, and when."""

    def _run(self) -> None:
        for number in itertools.count():
            if self._over.wait(EVERY):
                return
            for name, knock in self._knocks.items():
                with suppress(OSError):
                    knock(name + b" %d" % number)
            self.rounds += 1
            with suppress(BlockingIOError):
                while True:
                    name = self._door.recv(64).partition(b" ")[0]
                    if name in self._knocks:
                        self.arrived.append((name.decode(), time.monotonic()))

    def until_quiet(self, rounds: int = 100) -> None:
        """Nothing has arrived for so many rounds."""
        end = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < end, f"goes on arriving: {self.arrived[-3:]}"
            before, now = len(self.arrived), self.rounds
            while self.rounds < now + rounds:
                assert time.monotonic() < end, "the knocking goes on"
                time.sleep(EVERY)
            if len(self.arrived) == before:
                return
