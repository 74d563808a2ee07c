"""How long what the store said of Services is on its way to the kernel. `proxier.py` notes it; metrics and health ask.

    told ─▶ (the table takes the edit) sent ─▶ (the kernel has it) done

What is told between `sent` and `done` is the next edit's.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """All methods are called on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds."""
        self._clock = clock
        self._told: float | None = None
        """Since when something waits to be taken."""
        self._sent: float | None = None
        """The same of what has been taken; an edit that failed is taken again, and is as old as it was."""
        self.last_told: float | None = None
        self.last_done: float | None = None
        """Seconds since the epoch."""

    def told(self) -> None:
        """The store said something."""
        self.last_told = time.time()
        if self._told is None:
            self._told = self._clock()

    def sent(self) -> None:
        """All that has been told is in the edit that is made now."""
        if self._sent is None:
            self._sent = self._told
        self._told = None

    def done(self) -> float | None:
        """The kernel has what was sent: seconds since it was told, None when there was nothing."""
        if self._sent is None:
            return None
        took = self._clock() - self._sent
        self._sent = None
        self.last_done = time.time()
        return took

    @property
    def waiting(self) -> float:
        """For how many seconds the oldest of it has been on its way; 0 when nothing is."""
        since = self._sent if self._sent is not None else self._told
        return self._clock() - since if since is not None else 0.0
