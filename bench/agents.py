"""A real agent over a directory of manifests: its time to ready and its memory.

It runs in the benchmark's network namespace, with one interface; the store's files hold a hundred objects each.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rows import PERCALE, run
from percale.model.manifest.encode import to_json
from percale.model.meta import Object

_PER_FILE = 100


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent; `ready` is the time from exec in seconds."""

    pid: int
    ready: float

    @property
    def cpu_seconds(self) -> float:
        """See the function of this name."""
        return cpu_seconds(self.pid)

    def mebibytes(self, what: str) -> float:
        """`VmRSS`, or `VmHWM` for its peak."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """Of a process and the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def fill(store: Path, objects: Iterable[Object]) -> None:
    """Write the objects as lists, by kind."""
    by_kind: dict[str, list[bytes]] = {}
    for obj in objects:
        by_kind.setdefault(obj.KIND, []).append(to_json(obj))
    for kind, texts in by_kind.items():
        write_lists(store, kind.lower(), texts)


def write_lists(store: Path, name: str, texts: Sequence[bytes]) -> None:
    """Write JSON objects as lists into files with this name and a number."""
    store.mkdir(exist_ok=True)
    for part in range(0, len(texts), _PER_FILE):
        items = b",".join(texts[part : part + _PER_FILE])
        (store / f"{name}-{part:06d}.json").write_bytes(b'{"apiVersion":"v1","kind":"List","items":[' + items + b"]}")


@contextlib.contextmanager
def interface(address: str) -> Iterator[None]:
    """The node's interface `eth0` with this address."""
    run("ip", *["link", "add", "eth0", "up", "type", "veth", "peer", "name", "far0"])
    try:
        run("ip", *["link", "set", "far0", "up"])
        run("ip", *["addr", "add", address, "dev", "eth0"])
        yield
    finally:
        run("ip", *["link", "del", "eth0"])


@contextlib.contextmanager
def running(
    directory: Path,
    node: str,
    network: dict[str, object],
    is_ready: Callable[[], bool] | None = None,
    poll: float = 0.005,
    cni: dict[str, object] | None = None,
    **more: object,
) -> Iterator[Agent]:
    """An agent over `directory/store`, once it logs `ready` or `is_ready()`, asked every `poll` seconds.

    Its tables stay when it ends.
    """
    config = {
        "node": node,
        "store": f"files:{directory / 'store'}",
        "network": network,
        "iface": ["eth0"],
        "stateDir": str(directory / "state"),
        "runDir": str(directory / "run"),
        "http": None,
        "cni": {"confDir": str(directory / "net.d"), "socket": str(directory / "cni.sock"), **(cni or {})},
        **more,
    }
    file, log = directory / "agent.yaml", directory / "agent.log"
    file.write_text(json.dumps(config))
    with log.open("w") as stderr:
        start = time.perf_counter()
        with subprocess.Popen([PERCALE, "agent", "--config", str(file)], stderr=stderr) as process:
            try:
                _wait_until(is_ready or (lambda: " ready" in log.read_text()), poll, process, log)
                yield Agent(process.pid, time.perf_counter() - start)
            finally:
                process.terminate()


def _wait_until(is_ready: Callable[[], bool], poll: float, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while not is_ready():
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"the agent did not become ready: {log.read_text()}")
        time.sleep(poll)
