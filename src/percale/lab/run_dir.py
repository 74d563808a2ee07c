"""The directory of a lab's files, and whether the lab runs. `up` acquires it, every other command looks it up.

$XDG_RUNTIME_DIR/percale/labs/NAME   (or /tmp/percale-UID/labs/NAME), mode 0700
├── lock            held by every process of the lab: free when all of them have ended
├── pid             of the lab's init, as this machine numbers it
├── control.sock    the lab's API, for its owner only
├── log             init and controller
├── store/          the cluster's objects: files to look at and to edit
├── kubernetes/     or Kubernetes' files: etcd's data, certificates, logs
├── kubeconfig      for kubectl outside the lab
├── pods/NS/POD/    resolv.conf and hosts of a pod
└── nodes/NODE/     agent.yaml, agent.log, state/, cni/
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from percale.errors import LabError, NoSuchLab
from percale.lab.commands import lab_command

_GROUP_MARGIN = re.compile(r"^ +[|+] ?")
"""What a traceback puts in front of the lines of a group of errors."""
_FRAME = re.compile(
    r"[\s-]|\+?-+[+ ]|Traceback \(most recent call last\)|Exception Group Traceback|(During|The) .* exception"
)
"""Lines of a traceback that do not tell the error."""
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class LabDir(Struct, frozen=True):
    """The paths of one lab; the same inside and outside its mount namespace."""

    name: str
    directory: Path

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def pid(self) -> Path:
        return self.directory / "pid"

    @property
    def control(self) -> Path:
        return self.directory / "control.sock"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def kubernetes(self) -> Path:
        """Files of a control plane of Kubernetes."""
        return self.directory / "kubernetes"

    @property
    def kubeconfig(self) -> Path:
        """For kubectl outside the lab; missing in a lab without Kubernetes."""
        return self.directory / "kubeconfig"

    def command(self, words: str) -> str:
        """A verb of this lab with its arguments, as one types it."""
        return lab_command(self.name, words)

    def pod(self, namespace: str, name: str) -> Path:
        """The files that a pod sees in its own /etc."""
        return self.directory / "pods" / namespace / name

    def node(self, name: str) -> NodeDir:
        return NodeDir(name, self.directory / "nodes" / name)


class NodeDir(Struct, frozen=True):
    """The paths of one node. Its sockets are in the lab's private /run, for their paths must be short."""

    name: str
    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "agent.yaml"

    @property
    def log(self) -> Path:
        return self.directory / "agent.log"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def cni(self) -> Path:
        return self.directory / "cni"

    @property
    def run(self) -> Path:
        return Path("/run/percale") / self.name

    @property
    def cni_socket(self) -> Path:
        return self.run / "cni.sock"

    @property
    def notify_socket(self) -> Path:
        """Where the agent says READY=1, as it would to systemd."""
        return self.run / "notify.sock"


def is_label(name: str) -> bool:
    """A DNS-1123 label: a valid name of a lab, a node, a segment, a host."""
    return _LABEL.fullmatch(name) is not None


def base_directory() -> Path:
    """The parent of this user's labs directory; it may not exist yet."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute() and _is_ours(runtime):
        return runtime / "percale"
    return Path("/tmp") / f"percale-{os.geteuid()}"  # noqa: S108 -- owner and mode are checked before it is used


def labs_directory() -> Path:
    """The directory of this user's labs, created when missing. Raises LabError when others can access it."""
    base = base_directory()
    for directory in (base, base / "labs"):
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise LabError(f"cannot make {directory}: {error.strerror}", hint="set XDG_RUNTIME_DIR") from error
        _require_ours(directory)
    return base / "labs"


def _require_ours(directory: Path) -> None:
    """A directory, not a symlink, owned by this user with mode 0700 or less. Raises LabError."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise LabError(f"{directory} is not a directory of yours alone", hint="remove it, or set XDG_RUNTIME_DIR")


def _is_ours(runtime: Path) -> bool:
    """Only this user can write there: after `su`, XDG_RUNTIME_DIR is still another user's."""
    try:
        found = runtime.stat()
    except OSError:
        return False
    alone = found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return alone and os.access(runtime, os.W_OK | os.X_OK)


def locate(name: str) -> LabDir:
    """The directory of the lab of this name, whether it runs or not. Raises LabError."""
    if not is_label(name):
        raise LabError(f"{name!r} cannot name a lab", hint="use small letters, digits and '-', as in lab-1")
    lab_dir = LabDir(name, labs_directory() / name)
    with suppress(FileNotFoundError):
        _require_ours(lab_dir.directory)
    return lab_dir


def lab_of_node(state: Path) -> LabDir | None:
    """The lab whose node's agent has this state directory; None: it is of no lab."""
    directory = state.parent.parent.parent
    found = LabDir(directory.name, directory)
    return found if found.node(state.parent.name).state == state and found.control.is_socket() else None


def running(lab_dir: LabDir) -> int | None:
    """The pid of the lab's init; None when no process of the lab runs."""
    try:
        descriptor = _open_lock(lab_dir, 0)
    except FileNotFoundError:
        return None
    try:
        return None if _try_lock(descriptor) else _read_pid(lab_dir)
    finally:
        os.close(descriptor)


def require_running(lab_dir: LabDir) -> int:
    """The pid of the lab's init. Raises NoSuchLab, which names those that run."""
    pid = running(lab_dir)
    if pid is not None:
        return pid
    others = [other.name for other, _ in all_running()]
    hint = f"running: {', '.join(others)} (choose with --lab)" if others else f"start it: {lab_dir.command('up')}"
    raise NoSuchLab(f"no lab named {lab_dir.name} is running", hint=hint)


def all_running() -> Iterator[tuple[LabDir, int]]:
    """This user's running labs, by name."""
    for lab_dir in all_lab_dirs():
        pid = running(lab_dir)
        if pid is not None:
            yield lab_dir, pid


def all_lab_dirs() -> list[LabDir]:
    """This user's labs, running or not, by name."""
    found = sorted(labs_directory().iterdir())
    return [
        LabDir(path.name, path) for path in found if is_label(path.name) and path.is_dir() and not path.is_symlink()
    ]


def acquire(lab_dir: LabDir) -> int:
    """Lock the directory for a new lab and remove an ended lab's files; the lock's descriptor. Raises LabError."""
    while True:
        lab_dir.directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = _open_lock(lab_dir, os.O_CREAT)
        if not _try_lock(descriptor):
            os.close(descriptor)
            raise LabError(
                f"a lab named {lab_dir.name} is running already (pid {_read_pid(lab_dir) or 'not known yet'})",
                hint=f"end it with: percale lab down {lab_dir.name}, or start another with --lab",
            )
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)  # a concurrent `down` removed it between our open and our lock
    for entry in lab_dir.directory.iterdir():
        if entry != lab_dir.lock:
            _remove(entry)
    return descriptor


def take_down(lab_dir: LabDir, timeout: float = 5.0) -> bool:
    """End the lab, wait until all its processes have ended, remove its directory. False: it was not running.

    Raises LabError when it does not end within `timeout` seconds, even when killed.
    """
    pid = running(lab_dir)
    if pid is not None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(pid, number)
            if _wait_until_dead(lab_dir, timeout):
                break
        else:
            raise LabError(f"the lab {lab_dir.name} does not end (pid {pid})", hint=f"look at {lab_dir.log}")
    if lab_dir.directory.exists():
        os.close(acquire(lab_dir))
        _remove(lab_dir.directory)
    return pid is not None


def log_tail(log: Path) -> str:
    """The last line of a log; of a traceback the one that tells the error, of a group of errors that of the last."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    told = (_GROUP_MARGIN.sub("", line) for line in reversed(lines))
    return next((line.strip() for line in told if line.strip() and not _FRAME.match(line)), "nothing in its log yet")


def _wait_until_dead(lab_dir: LabDir, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while running(lab_dir) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # its lock is about to be free


def _open_lock(lab_dir: LabDir, flags: int) -> int:
    """Raises FileNotFoundError, LabError."""
    try:
        return os.open(lab_dir.lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LabError(f"cannot be opened: {error.strerror}", where=str(lab_dir.lock), hint="remove it") from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(lab_dir: LabDir) -> int:
    """0 while the lab is being started."""
    try:
        return int(lab_dir.pid.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
