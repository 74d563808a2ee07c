"""Who is told of foreign changes of a table, once for a burst of them. `table_monitor.py` and `fake_table.py` have one each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_GATHERING = 0.02
"""Seconds that notifications are collected."""


class ForeignChanges:
    """All methods are called on the event loop."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pending(self) -> bool:
        """Changes are being collected."""
        return self._timer is not None

    def subscribe(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def notify(self) -> None:
        """Call back a moment later."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHERING, self._call)

    def cancel(self) -> None:
        """Forget what is pending."""
        if self._timer is not None:
            self._timer.cancel()

    def _call(self) -> None:
        self._timer = None
        for callback in self._callbacks:
            callback()
