"""One agent per node: a locked pid file in the run directory. Callers: `main.py`, `cleanup.py`, `checks/host.py`.

The kernel releases the lock when the process ends, however it ends, so a killed agent's file does not block the next agent.
Whoever can read a file can lock it: this one is its owner's alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from percale.errors import AlreadyRunning, StateError


@contextmanager
def single_agent(run_dir: Path) -> Iterator[None]:
    """Hold the lock of this node's agent. Raises AlreadyRunning, StateError."""
    path = run_dir / "agent.pid"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        raise StateError(
            f"cannot be written: {error.strerror}", where=str(path), hint="choose another one with --run-dir"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(_pid_in(descriptor), where=str(path)) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise StateError(f"cannot be written: {error.strerror}", where=str(path)) from error
        yield
    finally:
        os.close(descriptor)


def running_agent(run_dir: Path) -> int | None:
    """The process of this node's agent, None without one."""
    try:
        descriptor = os.open(run_dir / "agent.pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _pid_in(descriptor: int) -> int:
    """0 if its owner has not written it yet."""
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0
