"""A real agent over a directory of manifests: how long until it is ready, and how much memory it takes. Used by rows.

The agent's namespace is the benchmark's own, with one interface; the store's files hold a hundred objects each.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.rows import PERCALE, run
from percale.model.manifest.encode import to_json
from percale.model.meta import Object

_A_FILE = 100
_POLL = 0.005


@dataclass(frozen=True, slots=True)
class Agent:
    """One that runs. `ready` is in seconds from exec."""

    pid: int
    ready: float

    def mebibytes(self, what: str) -> float:
        """`VmRSS` now, or `VmHWM`, its peak."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024


def fill(store: Path, objects: Iterable[Object]) -> None:
    """Write them as lists, by kind."""
    by_kind: dict[str, list[bytes]] = {}
    for obj in objects:
        by_kind.setdefault(obj.KIND, []).append(to_json(obj))
    store.mkdir(exist_ok=True)
    for kind, texts in by_kind.items():
        for part in range(0, len(texts), _A_FILE):
            items = b",".join(texts[part : part + _A_FILE])
            (store / f"{kind.lower()}-{part:06d}.json").write_bytes(
                b'{"apiVersion":"v1","kind":"List","items":[' + items + b"]}"
            )


@contextlib.contextmanager
def interface(address: str) -> Iterator[None]:
    """The node's way out."""
    run("ip", *["link", "add", "eth0", "up", "type", "veth", "peer", "name", "far0"])
    try:
        run("ip", *["link", "set", "far0", "up"])
        run("ip", *["addr", "add", address, "dev", "eth0"])
        yield
    finally:
        run("ip", *["link", "del", "eth0"])


@contextlib.contextmanager
def running(directory: Path, node: str, network: str, **more: object) -> Iterator[Agent]:
    """An agent over `directory/store` that has said that it is ready; the end leaves its table in place."""
    config = {
        "node": node,
        "store": f"files:{directory / 'store'}",
        "network": {"Network": network, "SubnetLen": 24},
        "iface": ["eth0"],
        "stateDir": str(directory / "state"),
        "runDir": str(directory / "run"),
        "http": None,
        "cni": {"confDir": str(directory / "net.d"), "socket": str(directory / "cni.sock")},
        **more,
    }
    file, log = directory / "agent.yaml", directory / "agent.log"
    file.write_text(json.dumps(config))
    with log.open("w") as stderr:
        start = time.perf_counter()
        with subprocess.Popen([PERCALE, "agent", "--config", str(file)], stderr=stderr) as process:
            try:
                _until_ready(process, log)
                yield Agent(process.pid, time.perf_counter() - start)
            finally:
                process.terminate()


def _until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while " ready" not in log.read_text():
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"the agent never became ready: {log.read_text()}")
        time.sleep(_POLL)
