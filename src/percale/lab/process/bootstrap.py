"""Starts the lab's pid 1 in new namespaces.

    percale lab up ── fork ──▶ launcher: session, log, user+net+mount+pid+uts+ipc namespaces
         │ ▲                      └── fork ──▶ pid 1 (init.py): own /proc, /run, /sys; ends with all that is in it
         │ └─── progress: JSON lines ─────────────┘
         └─ waits for the launcher, which writes the `pid` file and exits

Only the caller's own user and group are mapped, as root inside; also when the caller is root. When the lab's init ends,
by any signal, the kernel kills every process of the pid namespace and removes its namespaces, devices, tables and mounts.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from percale.errors import LabError, NoUserNamespaces, PercaleError
from percale.kernel import syscalls
from percale.lab.process.userns_errors import explain
from percale.lab.run_dir import LabDir

NETNS = Path("/run/netns")
FABRIC = "fabric"
"""The lab's own network namespace, of init and controller, is the router between the segments."""

_PSEUDO = 0x2 | 0x4 | 0x8
"""MS_NOSUID | MS_NODEV | MS_NOEXEC: without them the kernel refuses such mounts in a user namespace."""

Report = Callable[[dict[str, Any]], None]
Event = dict[str, Any]


class LabProcess(Struct, frozen=True):
    """A started lab, as the starting command sees it."""

    pid: int
    progress: socket.socket

    def events(self, timeout: Callable[[], float] = lambda: 60.0) -> Iterator[Event]:
        """The lab's progress events until it closes the channel. Raises TimeoutError after `timeout()` seconds."""
        partial = b""
        while True:
            self.progress.settimeout(max(0.001, timeout()))
            received = self.progress.recv(65536)
            if not received:
                return
            *lines, partial = (partial + received).split(b"\n")
            yield from map(json.loads, lines)


def spawn_lab(lab_dir: LabDir, lock: int, run_init: Callable[[Report], None]) -> LabProcess:
    """Start the lab: `run_init(report)` runs as its pid 1. `lock` stays open in all of the lab's processes.

    Raises NoUserNamespaces when the machine forbids the namespaces, LabError when something else is in the way.
    """
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    launcher = os.fork()
    if launcher == 0:
        _exit_after(lambda: _launch(lab_dir, lock, ours, theirs, run_init), theirs)
    theirs.close()
    os.close(lock)
    os.waitpid(launcher, 0)
    try:
        pid = int(lab_dir.pid.read_text())
    except FileNotFoundError:
        first_event = next(LabProcess(0, ours).events(), {})
        raise _as_error(first_event) from None
    return LabProcess(pid, ours)


def _launch(
    lab_dir: LabDir, lock: int, ours: socket.socket, theirs: socket.socket, run_init: Callable[[Report], None]
) -> None:
    """The launcher: detaches from the terminal, creates the namespaces, forks pid 1, writes the pid file."""
    ours.close()
    os.setsid()
    _leave_terminal(lab_dir.log)
    try:
        syscalls.become_root_of_new_user_namespace()
        syscalls.unshare(
            syscalls.CLONE_NEWNET
            | syscalls.CLONE_NEWNS
            | syscalls.CLONE_NEWPID
            | syscalls.CLONE_NEWUTS
            | syscalls.CLONE_NEWIPC
        )
    except OSError as error:
        raise explain(error) from error
    go, wait = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(wait)
        if not os.read(go, 1):  # until the pid file exists; without it no command finds the lab
            os._exit(1)
        os.close(go)
        _exit_after(lambda: _run_init(lab_dir, theirs, run_init), theirs)
    try:
        lab_dir.pid.write_text(f"{pid}\n")
    except OSError as error:
        lab_dir.pid.unlink(missing_ok=True)
        raise LabError(f"cannot be written: {error.strerror}", where=str(lab_dir.pid)) from error
    os.write(wait, b"1")


def _run_init(lab_dir: LabDir, theirs: socket.socket, run_init: Callable[[Report], None]) -> None:
    """Pid 1: mounts, then init."""
    os.umask(0o022)
    try:
        _mount(lab_dir)
    except OSError as error:
        raise explain(error) from error
    with suppress(OSError):
        socket.sethostname(f"lab-{lab_dir.name}")
    run_init(lambda event: _send(theirs, event))


def _mount(lab_dir: LabDir) -> None:
    """Private /proc and /run without propagation; the labs' directory keeps its path, even below /run."""
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    labs = os.open(lab_dir.directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.mount("tmpfs", "/run", "tmpfs", options="mode=0755")
    if not lab_dir.directory.is_dir():
        lab_dir.directory.parent.mkdir(parents=True)
        syscalls.mount(f"/proc/self/fd/{labs}", str(lab_dir.directory.parent), None, syscalls.MS_BIND)
    os.close(labs)
    syscalls.mount("proc", "/proc", "proc", _PSEUDO)
    with suppress(OSError):  # only tools that look into /sys miss it
        syscalls.mount("sysfs", "/sys", "sysfs", _PSEUDO)
    NETNS.mkdir()
    (NETNS / FABRIC).touch()
    syscalls.mount("/proc/self/ns/net", str(NETNS / FABRIC), None, syscalls.MS_BIND)


def _leave_terminal(log: Path) -> None:
    nowhere = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nowhere, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _exit_after(action: Callable[[], None], channel: socket.socket) -> None:
    """Run a forked process until it exits; errors go to the log and, in one line, to the waiting command."""
    try:
        action()
    except PercaleError as error:
        _send(channel, {"error": str(error), "type": type(error).__name__})
        os._exit(1)
    except BaseException as error:  # the end of a process: no caller could handle it
        traceback.print_exc()
        _send(channel, {"error": f"the lab's start failed: {type(error).__name__}: {error}", "type": "LabError"})
        os._exit(1)
    os._exit(0)


def _send(channel: socket.socket, event: Event) -> None:
    with suppress(OSError):  # the waiting command has exited
        channel.sendall(json.dumps(event).encode() + b"\n")


def _as_error(event: Event) -> PercaleError:
    kind = NoUserNamespaces if event.get("type") == "NoUserNamespaces" else LabError
    return kind(event.get("error", "the lab ended before it began"))
