"""Which kernel settings are looked at when: of most changes to them the kernel tells nobody. `reconciling` asks at each look.

The node's own are few and looked at each time, those of devices by turns: a node with hundreds of pods reads a few files more.
"""

from __future__ import annotations

from collections.abc import Iterable

from percale.kernel.plan import sysctl_device
from percale.render.objects import Sysctl

EVERY = 2.0
"""Seconds between two looks."""
TURNS = 5
"""Looks until each device's settings have been seen once."""


class Turns:
    """Not for two threads at a time."""

    def __init__(self) -> None:
        self._turn = 0

    def next(self, settings: Iterable[Sysctl]) -> list[Sysctl]:
        """Those of all wished ones that are to be looked at now."""
        self._turn = (self._turn + 1) % TURNS
        everywhere: list[Sysctl] = []
        devices: list[Sysctl] = []
        for each in settings:
            (everywhere if sysctl_device(each.name) is None else devices).append(each)
        return everywhere + devices[self._turn :: TURNS]
