"""The agents of a testbed, as the machine sees them: their processes, and what they take."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
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


@dataclass(frozen=True)
class AgentProcess:
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


def running(layout: Layout, *nodes: Node) -> list[AgentProcess]:
    """Those that run now on these nodes, or on all."""
    return [
        AgentProcess(node.name, pid)
        for node in nodes or layout.nodes
        for pid in sorted(cgroups.processes(node.name))
        if _is_agent(pid)
    ]


@contextmanager
def killed_in_turn(layout: Layout, every: float) -> Iterator[list[AgentProcess]]:
    """Meanwhile the agent of one node after the other is killed; all that were. What fails in that, fails at the end."""
    killed: list[AgentProcess] = []
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


def _is_agent(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return False
    # The interpreter, perhaps with options of its own, runs it.
    return b"python" in words[0] and any(
        word.endswith(b"/percale") and following == b"agent" for word, following in pairwise(words)
    )
