"""Starts processes in a testbed's namespaces and cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster.testbed import cgroups
from tests.cluster.testbed.layout import CONTROL_PLANE, Layout

HOLDER = "holder"
_started: list[subprocess.Popen[bytes]] = []


def pid_of(layout: Layout, member: str) -> int:
    """The first process of the holder or a node, as the machine numbers it."""
    return int((layout.root / member / "pid").read_text())


def in_holder(layout: Layout, namespace: str | None = None) -> list[str]:
    """Prefix of a command there, in the network namespace of this name: on the switch by default."""
    pid = pid_of(layout, HOLDER)
    net = f"/proc/{pid}/root/run/netns/{namespace}" if namespace is not None else f"/proc/{pid}/ns/net"
    return ["nsenter", f"--target={pid}", "--mount", "--pid", f"--net={net}", "--"]


def in_control_plane(layout: Layout) -> list[str]:
    return in_holder(layout, CONTROL_PLANE)


def in_node(layout: Layout, name: str) -> list[str]:
    """In all of a node's namespaces."""
    return ["nsenter", f"--target={pid_of(layout, name)}", "-m", "-u", "-i", "-n", "-p", "--"]


def start(
    layout: Layout, member: str, log: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> None:
    """A daemon in the member's cgroup. It outlives this process."""
    joined = [
        "sh",
        "-ec",
        'for group; do [ "$group" != -- ] || break; echo $$ >"$group"; shift; done; shift; exec "$@"',
    ]
    with (layout.logs / f"{log}.log").open("ab") as output:
        process = subprocess.Popen(
            [*joined, "sh", *cgroups.daemons(member), "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=None if environment is None else {**os.environ, **environment},
        )
    _started.append(process)


def reap() -> None:
    """Once all are killed: those that this process started."""
    while _started:
        _started.pop().wait()


def run(command: Sequence[str], *, stdin: str | None = None, seconds: float = 120) -> str:
    """What a command prints; a failed one is an error with what it said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode != 0:
        raise TestbedError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class TestbedError(Exception):
    """Says what does not work and where to look."""

    __test__ = False


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def tail(path: Path, lines: int = 5) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
