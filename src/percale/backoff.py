"""Exponential backoff: the pauses between attempts at something that fails."""

from __future__ import annotations


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
