"""Exponential backoff: the pauses between attempts at something that fails."""

from __future__ import annotations

import random


class Backoff:
    """Pauses in seconds: `first`, then twice the last one, at most `longest`."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = self._pause = first
        self._longest = longest

    def next(self) -> float:
        """The pause after another failure."""
        pause = self._pause
        self._pause = min(pause * 2, self._longest)
        return pause

    def reset(self) -> None:
        """An attempt succeeded."""
        self._pause = self._first


def spread(pause: float) -> float:
    """Between half of it and half as much again, so that what fails for many at once is not tried by all at once."""
    return pause * random.uniform(0.5, 1.5)  # noqa: S311
