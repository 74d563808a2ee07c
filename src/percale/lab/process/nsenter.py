"""Runs a program of this machine inside a pod or node, as nsenter(1) does. Called by cli/lab/shell.py.

percale lab exec ── setns user, mnt, pid, uts, ipc of the lab's init, net of the pod
     │               private mounts: the pod's /etc/resolv.conf and /etc/hosts, its view of /sys
     └─ fork ──▶ the program (setns of a pid namespace takes effect for children), with this terminal and exit code
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field

from percale.errors import LabError, NoSuchLab
from percale.kernel import syscalls
from percale.lab.process.setgroups import pretend_setgroups
from percale.lab.run_dir import LabDir, require_running

_NAMESPACES = {
    "user": syscalls.CLONE_NEWUSER,
    "mnt": syscalls.CLONE_NEWNS,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "pid": syscalls.CLONE_NEWPID,
}
"""In the order of setns: the user namespace grants the privilege for the others."""


class ExecTarget(Struct, frozen=True):
    """Where a program runs: network namespace, host name, bind mounts by path, environment."""

    namespace: str
    hostname: str
    binds: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def run_inside(lab_dir: LabDir | None, target: ExecTarget, command: Sequence[str]) -> int:
    """Run the command at this target of a lab; its exit code (128 + signal when killed).

    `lab_dir` None: this process is one of the lab's. The calling process stays inside afterwards; `percale` is found in there
    even when it is not on the PATH. Raises LabError, NoSuchLab.
    """
    directory = Path.cwd()
    try:
        _enter(lab_dir, target)
        _set_up_mounts(target)
    except OSError as error:
        hint = f"is it still there? {lab_dir.command('get pods -A')}" if lab_dir is not None else None
        raise LabError(f"cannot enter {target.hostname}: {error}", hint=hint) from error
    with suppress(OSError):  # the new mount namespace's root, when the directory is not to be seen inside
        os.chdir(directory)
    overrides = {
        "HOSTNAME": target.hostname,
        "PATH": f"{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}",
    }
    return _wait_for(_start(command, {**os.environ, **target.environment, **overrides}))


def enter_user_namespace(init: int) -> None:
    """Enter the lab's user namespace, which owns the nodes' namespaces; single-threaded processes only. Raises OSError."""
    descriptor = os.open(f"/proc/{init}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(descriptor, syscalls.CLONE_NEWUSER)
    finally:
        os.close(descriptor)


def _enter(lab_dir: LabDir | None, target: ExecTarget) -> None:
    if lab_dir is not None:
        _enter_lab(lab_dir)
    namespace = os.open(target.namespace, os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(namespace, syscalls.CLONE_NEWNET)
    os.close(namespace)


def _enter_lab(lab_dir: LabDir) -> None:
    """All are opened first: in the lab's mount namespace, /proc is another."""
    init = require_running(lab_dir)
    opened = []
    for name, kind in _NAMESPACES.items():
        try:
            opened.append((os.open(f"/proc/{init}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind))
        except FileNotFoundError as error:
            raise NoSuchLab("the lab has just ended", hint=f"start it again: {lab_dir.command('up')}") from error
    for descriptor, kind in opened:
        syscalls.setns(descriptor, kind)
        os.close(descriptor)


def _set_up_mounts(target: ExecTarget) -> None:
    """Private mounts and host name."""
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    with suppress(OSError):  # only tools that look into /sys/class/net miss it
        syscalls.mount("sysfs", "/sys", "sysfs", 0x2 | 0x4 | 0x8)
    for path, source in target.binds.items():
        real = Path(os.path.realpath(path))
        if not real.exists():  # /etc/resolv.conf may point into the /run of the machine
            with suppress(OSError):
                real.parent.mkdir(parents=True, exist_ok=True)
                real.mkdir() if Path(source).is_dir() else real.touch()
        if real.exists():
            syscalls.mount(source, str(real), None, syscalls.MS_BIND)
    socket.sethostname(target.hostname)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        syscalls.die_with_parent(signal.SIGKILL)
        with suppress(OSError):  # a kernel without seccomp: some programs then refuse to drop privileges
            pretend_setgroups()
        os.execvpe(command[0], list(command), dict(environment))  # noqa: S606 -- no shell is meant
    except FileNotFoundError:
        print(f"percale: {command[0]}: no such program on this machine", file=sys.stderr)
        os._exit(127)
    except OSError as error:
        print(f"percale: {command[0]}: {error.strerror}", file=sys.stderr)
        os._exit(126)
    finally:
        os._exit(126)


def _wait_for(pid: int) -> int:
    """The exit code; the terminal sends its signals to the program as well."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)

    def pass_on(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
