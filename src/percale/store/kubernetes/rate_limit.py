"""Bounds the requests of one agent, so that no mistake of ours overloads an API server."""

from __future__ import annotations

import asyncio


class RateLimit:
    """A token bucket: `burst` requests at once, `rate` per second in the long run."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at: float | None = None

    async def wait(self) -> None:
        """Until the next request may be sent; in the order of the calls."""
        now = asyncio.get_running_loop().time()
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._rate)
