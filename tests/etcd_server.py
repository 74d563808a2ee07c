"""A real etcd on loopback, for tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import until

_ENVIRONMENT = {**os.environ, "ETCDCTL_API": "3"}


class EtcdServer:
    """`flags` are etcd's own; `start` again after `stop` keeps the data and the port."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        host: str = "127.0.0.1",
        enter: Sequence[str] = (),
        client: tuple[Path, Path, Path] | None = None,
    ) -> None:
        """`enter` is the command that enters the namespace which has the address `host`.

        `client`, for one that speaks TLS, is how etcdctl does: the authority, a certificate and its key.
        """
        self._directory = directory
        self._flags = flags
        self._enter = enter
        self.host = host
        self.port, self._peers = _free_ports(2)
        self.url = f"{'https' if client else 'http'}://{host}:{self.port}"
        self._ctl = [*enter, "etcdctl", "--endpoints", self.url]
        if client is not None:
            self._ctl += [f"--{name}={path}" for name, path in zip(("cacert", "cert", "key"), client, strict=True)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
        self.launch()
        until(self._answers, "etcd answers")

    def launch(self) -> None:
        peer = f"http://{self.host}:{self._peers}"
        command = [*self._enter, "etcd", "--data-dir", str(self._directory / "data"), "--unsafe-no-fsync"]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"default={peer}", *self._flags]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "log").read_text()
        command = [*self._ctl, "endpoint", "health"]
        return subprocess.run(command, env=_ENVIRONMENT, check=False, capture_output=True, timeout=30).returncode == 0

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """All data, while it is stopped."""
        shutil.rmtree(self._directory / "data")

    def ctl(self, *arguments: str) -> str:
        """etcdctl, for what an operator types."""
        command = [*self._ctl, *arguments]
        return subprocess.run(command, env=_ENVIRONMENT, check=True, capture_output=True, text=True, timeout=30).stdout

    def as_user(self, user: str, *arguments: str) -> str:
        return self.ctl("--user", user, *arguments)


@contextmanager
def etcd_server(*flags: str) -> Iterator[EtcdServer]:
    """A fresh one."""
    with tempfile.TemporaryDirectory() as directory:
        server = EtcdServer(Path(directory), *flags)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
