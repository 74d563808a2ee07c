"""What another program changes again and again, and Percale restores each time: an Event of the Node.

Devices, addresses, routes and settings (the reconciler's objects) are counted, and tables (`table_sections`).
"""

from __future__ import annotations

import asyncio
from collections import deque

from percale.agent.events import Events

_MANY, _WITHIN = 5, 600.0
"""So many repairs in so many seconds are what an operator must know."""


class Repairs:
    """Used on the event loop. One Event names what comes first: who changes one thing often changes others, too."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._times: dict[str, deque[float]] = {}
        """When on the loop's clock each was restored, the last one at the end."""
        self._quiet_until = 0.0

    def count(self, what: str) -> None:
        """Another program has changed `what`, and it is restored."""
        now = asyncio.get_running_loop().time()
        times = self._times.pop(what, None) or deque(maxlen=_MANY)
        times.append(now)
        self._times[what] = times
        while now - self._times[oldest := next(iter(self._times))][-1] >= _WITHIN:
            del self._times[oldest]
        if len(times) == _MANY and now - times[0] < _WITHIN and now >= self._quiet_until:
            self._quiet_until = now + _WITHIN
            message = f"{what}: changed by another program again and again; each time it is restored"
            self._events.warn_node("RepairedRepeatedly", message)
