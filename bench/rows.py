"""Rows of the bench table, from samples."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PERCALE = str(Path(sys.executable).with_name("percale"))
"""The command."""


@dataclass(frozen=True, slots=True)
class Row:
    """`ours` and `theirs` are medians in `unit`; `theirs` is None when the goal is absolute."""

    what: str
    unit: str
    ours: float
    theirs: float | None
    goal: str
    met: bool

    def text(self) -> str:
        theirs = f"{self.theirs:10.2f}" if self.theirs is not None else f"{'–':>10}"
        ratio = f"{self.ours / self.theirs:6.2f} ×" if self.theirs else f"{'':8}"
        verdict = "met" if self.met else "MISSED"
        return f"{self.what:58} {self.ours:10.2f} {theirs} {self.unit:7} {ratio}  {self.goal:14} {verdict}"


HEADING = f"{'what':58} {'ours':>10} {'theirs':>10} {'unit':7} {'ratio':>8}  {'goal':14}"


def at_most(what: str, unit: str, samples: Sequence[float], limit: float) -> Row:
    """A row whose median must not exceed an absolute limit."""
    ours = statistics.median(samples)
    return Row(what, unit, ours, None, f"≤ {limit:g} {unit}", ours <= limit)


def ratio(what: str, unit: str, ours: Sequence[float], theirs: Sequence[float], goal: float, *, most: bool) -> Row:
    """A row whose ratio of medians must be at most (or at least) `goal`."""
    mine, other = statistics.median(ours), statistics.median(theirs)
    value = mine / other
    return Row(what, unit, mine, other, f"{'≤' if most else '≥'} {goal:g} ×", value <= goal if most else value >= goal)


def in_turn(rounds: int, *actions: Callable[[], float]) -> list[list[float]]:
    """Samples of each action, interleaved (A B A B …), so that drift of the machine affects all alike."""
    samples: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, found in zip(actions, samples, strict=True):
            found.append(action())
    return samples


def run(*command: str, stdin: str | None = None) -> str:
    """A command's output. Raises RuntimeError with its error text."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def seconds(action: Callable[[], object]) -> float:
    """The action's wall-clock time."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
