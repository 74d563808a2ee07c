"""How long a change of Services takes from the store to the kernel. `proxier.py` records it; metrics and health checks read it.

    received ─▶ submitted (it is part of a transaction) ─▶ applied (the kernel holds it)

What is received between `submitted` and `applied` belongs to the next transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class SyncLatency:
    """All methods are called on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds."""
        self._clock = clock
        self._received: float | None = None
        """When the oldest change that is not submitted was received."""
        self._submitted: float | None = None
        """The same of the changes submitted; a transaction that failed is submitted again and keeps its age."""
        self.last_received: float | None = None
        self.last_applied: float | None = None
        """Seconds since the epoch."""

    def received(self) -> None:
        """A change came from the store."""
        self.last_received = time.time()
        if self._received is None:
            self._received = self._clock()

    def submitted(self) -> None:
        """All changes received so far are part of the current transaction."""
        if self._submitted is None:
            self._submitted = self._received
        self._received = None

    def applied(self) -> float | None:
        """The kernel holds what was submitted: seconds since it was received, None if there was nothing."""
        if self._submitted is None:
            return None
        took = self._clock() - self._submitted
        self._submitted = None
        self.last_applied = time.time()
        return took

    @property
    def waiting(self) -> float:
        """Age in seconds of the oldest change that is not applied; 0 if there is none."""
        since = self._submitted if self._submitted is not None else self._received
        return self._clock() - since if since is not None else 0.0
