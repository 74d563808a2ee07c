"""A `ping` every 10 ms while something else happens: how many were answered."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import PATIENCE, until

_SILENT = 200
"""Pings in a row without an answer: it does not go on."""


class Pings:
    """Counts until now; called at the end, how many were sent and answered."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._all: list[str] | None = None
        self._goes_on = False

    def _lines(self) -> list[str]:
        return self._all if self._all is not None else self._output.read_text().splitlines()

    def wait_next(self) -> None:
        """Until another one is answered, or nothing is any more."""
        before = self.answered
        until(lambda: self.answered > before or self.unanswered_in_a_row > _SILENT)
        self._goes_on = self.answered > before

    def end(self) -> None:
        """Nothing is added any more."""
        self._all = self._lines()

    @property
    def answered(self) -> int:
        return sum(" ttl=" in line for line in self._lines())

    @property
    def unanswered_in_a_row(self) -> int:
        """Of the last ones."""
        lines = self._lines()
        last = max((number for number, line in enumerate(lines) if " ttl=" in line), default=-1)
        return sum("no answer yet" in line for line in lines[last + 1 :])

    def wait_answered(self, count: int) -> None:
        """Until so many more were answered."""
        wanted = self.answered + count
        until(lambda: self.answered >= wanted, f"{count} more are answered")

    def __call__(self) -> tuple[int, int]:
        """What was sent behind the last answer is under way, on a busy machine more than one, if there are answers at the end."""
        lines = self._lines()
        sent, answered = map(int, re.findall(r"(\d+) packets transmitted, (\d+) received", "".join(lines))[0])
        last = max(map(int, re.findall(r" icmp_seq=(\d+) ttl=", "\n".join(lines))), default=0)
        return last if self._goes_on else sent, answered

    @property
    def lost(self) -> int:
        """At the end."""
        sent, answered = self()
        return sent - answered


@contextmanager
def pinging(namespace: Path, address: str) -> Iterator[Pings]:
    """As long as this lasts."""
    command = ["nsenter", f"--net={namespace}", "ping", "-n", "-O", "-i", "0.01", address]
    with tempfile.NamedTemporaryFile() as output:
        ping = subprocess.Popen(command, stdout=output)
        pings = Pings(Path(output.name))
        try:
            yield pings
            pings.wait_next()
        finally:
            ping.send_signal(signal.SIGINT)
            ping.wait(timeout=PATIENCE)
            pings.end()
