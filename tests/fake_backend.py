"""A backend with a process and a key on disk, for tests; as a program it is `percale` with that backend registered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from percale.backend.peer_path import paths, type_problem
from percale.backend.protocol import ExclusiveId, KernelBackend, LocalNode, PeerObjects
from percale.backend.registry import BACKENDS
from percale.cli.main import main
from percale.errors import StateError
from percale.model.backend_options import OPTIONS, BackendOptions
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec
from percale.render.network.tunnels import TunnelEnd
from percale.render.objects import KernelObject

FAKE = "fake"


class FakeOptions(BackendOptions, frozen=True):
    """`port` is the process's."""

    port: int = 9999

    @property
    def tunnel_ports(self) -> tuple[int, ...]:
        return (self.port,)


def is_running(pid: int) -> bool:
    """It has not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class FakeProcess:
    """`sleep`; its id and its configuration are files."""

    interval = 5.0

    def __init__(self, directory: Path) -> None:
        self._pid_file = directory / "pid"
        self.config = directory / "config.json"

    @property
    def pid(self) -> int | None:
        """Of the process that runs."""
        if not self._pid_file.exists():
            return None
        pid = int(self._pid_file.read_text())
        return pid if is_running(pid) else None

    async def ensure(self, node: LocalNode, leases: Sequence[SubnetLease]) -> None:
        self.config.write_text(json.dumps({"node": node.name, "peers": [lease.spec.node for lease in leases]}))
        if self.pid is None:
            started = subprocess.Popen(["sleep", "120"], start_new_session=True)
            self._pid_file.write_text(str(started.pid))
            started.returncode = 0  # it outlives the agent: nobody waits for it

    async def check(self) -> None:
        if self.pid is None:
            raise StateError("the process has ended", where=str(self._pid_file))

    async def stop(self) -> None:
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
        self._pid_file.unlink(missing_ok=True)


class FakeBackend(KernelBackend):
    """A tunnel whose key is made once and published in the lease, as wireguard's."""

    type = FAKE
    keeps_state = True
    process: FakeProcess | None = None

    def __init__(self, options: FakeOptions) -> None:
        self._options = options
        self._key = ""

    def load(self, directory: Path) -> None:
        path = directory / "key"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(os.urandom(8).hex())
        self._key = path.read_text()
        self.process = FakeProcess(directory)

    def pod_mtu(self, node: LocalNode) -> int:
        return node.interface.mtu - 60

    def lease_data(self, node: LocalNode) -> dict[Family, dict[str, Any]]:
        return {family: {"Key": self._key} for family in node.families}

    def exclusive_ids(self, spec: SubnetLeaseSpec) -> Iterator[ExclusiveId]:
        for each in spec.families:
            if isinstance(key := each.fields.get("Key"), str):
                yield ExclusiveId("key", key, each.family)

    def check(self, node: LocalNode) -> None:
        return None

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        return ()

    def tunnel_ends(self, node: LocalNode) -> tuple[TunnelEnd, ...]:
        return tuple(TunnelEnd(address, self._options.port) for address in node.public_ips)

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        if (other := type_problem(FAKE, lease)) is not None:
            return PeerObjects(problem=other)
        found = list(paths(node, lease))
        usable = [path for path in found if isinstance(path.fields.get("Key"), str)]
        return PeerObjects(
            tuple(path.direct for path in usable),
            tuple(path.gateway for path in usable),
            "it has no key" if usable != found else None,
        )


if __name__ == "__main__":
    BACKENDS[FAKE], OPTIONS[FAKE] = FakeBackend, FakeOptions
    main()
