"""What the responder of a pod or host has answered, for `percale lab logs`: the last lines, as a container's log."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime

MOST_LINES = 1000
_LONGEST_REQUEST = 100
"""Characters of a request's first line."""


class AnswerLog:
    """Used on one event loop."""

    def __init__(self) -> None:
        self.count = 0
        """Lines ever written."""
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._written = asyncio.Event()

    def add(self, client: str, server: str, protocol: str, request: bytes) -> None:
        """One request and its answer."""
        first = request.partition(b"\n")[0].decode(errors="replace").strip()[:_LONGEST_REQUEST]
        text = "".join(letter if letter.isprintable() else "?" for letter in first)
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._lines.append(f'{now} {client} → {server}/{protocol} "{text}"')
        self.count += 1
        self._written.set()
        self._written = asyncio.Event()

    def after(self, count: int) -> list[str]:
        """The lines after so many; those that are too old are lost."""
        new = min(max(0, self.count - count), len(self._lines))
        return list(self._lines)[len(self._lines) - new :]

    async def wait_beyond(self, count: int, timeout_seconds: float) -> None:
        """Wait until there are more lines, not longer than this."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self.count <= count:
                    await self._written.wait()
