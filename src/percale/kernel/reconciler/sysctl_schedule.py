"""Which sysctls to check when, for the kernel sends no events for most of them. Called by `reconciler.py` at each check.

The node's own are few and checked each time, those of devices in rotation, so that a node with hundreds of pods reads few files.
"""

from __future__ import annotations

from collections.abc import Iterable

from percale.kernel.plan import sysctl_device
from percale.render.objects import Sysctl

EVERY = 2.0
"""Seconds between two checks."""
ROTATION = 5
"""Checks until each device's sysctls have been read once."""


class SysctlSchedule:
    """Not thread-safe."""

    def __init__(self) -> None:
        self._offset = 0

    def next(self, settings: Iterable[Sysctl]) -> list[Sysctl]:
        """Those of all desired ones to check now."""
        self._offset = (self._offset + 1) % ROTATION
        everywhere: list[Sysctl] = []
        devices: list[Sysctl] = []
        for each in settings:
            (everywhere if sysctl_device(each.name) is None else devices).append(each)
        return everywhere + devices[self._offset :: ROTATION]
