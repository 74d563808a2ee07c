"""The agents of a testbed and the programs of other networks, as the machine sees them: their processes, and what they take."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from threading import Event

from tests.cluster.testbed import cgroups
from tests.cluster.testbed.layout import Layout, Node

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


_OTHERS = frozenset((b"flanneld", b"kube-proxy", b"kube-router"))


@dataclass(frozen=True)
class Process:
    node: str
    pid: int

    @property
    def cpu_seconds(self) -> float:
        """Since its start, with the children that it waited for."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11:15]) / _TICKS

    @property
    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE


def running(layout: Layout, *nodes: Node) -> list[Process]:
    """The agents that run now on these nodes, or on all."""
    return [each for each in _processes(nodes or layout.nodes) if _is_agent(_command(each.pid))]


def network_processes(layout: Layout) -> list[Process]:
    """The agents, and what others have in their place."""

    def is_one(command: list[bytes]) -> bool:
        return _is_agent(command) or command[0].rpartition(b"/")[2] in _OTHERS

    return [each for each in _processes(layout.nodes) if is_one(_command(each.pid))]


def _processes(nodes: Iterable[Node]) -> Iterator[Process]:
    return (Process(node.name, pid) for node in nodes for pid in sorted(cgroups.processes(node.name)))


@contextmanager
def killed_in_turn(layout: Layout, every: float) -> Iterator[list[Process]]:
    """Meanwhile the agent of one node after the other is killed; all that were. What fails in that, fails at the end."""
    killed: list[Process] = []
    ended = Event()

    def kill() -> None:
        for node in cycle(layout.nodes):
            if ended.wait(every):
                return
            for agent in running(layout, node):
                os.kill(agent.pid, signal.SIGKILL)
                killed.append(agent)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        try:
            yield killed
        finally:
            ended.set()
        killing.result()


def _command(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return [b""]


def _is_agent(words: list[bytes]) -> bool:
    # The interpreter, perhaps with options of its own, runs it.
    return b"python" in words[0] and any(
        word.endswith(b"/percale") and following == b"agent" for word, following in pairwise(words)
    )
