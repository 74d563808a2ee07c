"""The tunnel's program as the agent sees it: a `BackendProcess` that is told by a file and asked by a socket.

The socket alone says whether it runs, and its peer's credentials which process it is: there is no pid that another may have now.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path

import msgspec

from percale.atomic_file import replace_file
from percale.backend.interface_selection import tunnel_source
from percale.backend.peer_path import paths
from percale.backend.protocol import LocalNode
from percale.backend.udp.config import CONFIG, LOG, SOCKET, TunnelConfig, TunnelStatus
from percale.errors import StateError
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease
from percale.unix_socket import peer_credentials

_START_TIMEOUT = 5.0
"""Seconds until a new process must answer."""
_ANSWER_TIMEOUT = 2.0
_POLL_INTERVAL = 0.02


class TunnelProcess:
    """See `BackendProcess`."""

    interval = 1.0

    def __init__(self, directory: Path, device: str, port: int) -> None:
        self._directory = directory
        self._device = device
        self._port = port

    async def ensure(self, node: LocalNode, leases: Sequence[SubnetLease]) -> None:
        """Raises StateError."""
        local = node.families.get(Family.IPV4)
        address = tunnel_source(local) if local is not None else None
        if local is None or address is None:
            return  # no underlay yet
        source = str(local.subnet.network_address)
        config = TunnelConfig(self._device, source, str(address), self._port, dict(_peers(node, leases)))
        await asyncio.to_thread(self._configure, msgspec.json.encode(config))

    async def check(self) -> None:
        """Raises StateError."""
        status = await asyncio.to_thread(self._ask)
        if status is None:
            raise self._error("the tunnel's process does not answer")
        if status.problem is not None:
            raise StateError(status.problem, hint="it is tried again all the time")

    async def stop(self) -> None:
        """Raises StateError."""
        await asyncio.to_thread(self._stop)

    def _configure(self, config: bytes) -> None:
        path = self._directory / CONFIG
        try:
            if not path.exists() or path.read_bytes() != config:
                replace_file(path, config, mode=0o600)
            if self._ask() is None:
                self._start()
        except OSError as error:
            raise StateError(f"cannot be written: {error.strerror}", where=str(path)) from error

    def _start(self) -> None:
        """Detached from the agent, and with nothing of its own open. Raises OSError, StateError."""
        log = self._directory / LOG
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "percale.backend.udp.tunnel", str(self._directory)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        for _ in range(int(_START_TIMEOUT / _POLL_INTERVAL)):
            try:
                process.wait(_POLL_INTERVAL)
            except subprocess.TimeoutExpired:
                if self._ask() is not None:
                    process.returncode = 0  # it outlives the agent: nobody waits for it
                    return
            else:
                break
        process.kill()
        process.wait()
        raise self._error("the tunnel's process did not start")

    def _error(self, what: str) -> StateError:
        """With the last line that it wrote, which tells the reason."""
        log = self._directory / LOG
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return StateError(f"{what}: {lines[-1]}" if lines else what, where=str(log))

    def _connect(self) -> socket.socket:
        """Raises OSError: it does not run."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_ANSWER_TIMEOUT)
            connection.connect(str(self._directory / SOCKET))
        except OSError:
            connection.close()
            raise
        return connection

    def _ask(self) -> TunnelStatus | None:
        """Have it read its configuration again. None: it does not run, or does not answer."""
        try:
            with self._connect() as connection, connection.makefile("rb") as answer:
                return msgspec.json.decode(answer.read(), type=TunnelStatus)
        except (OSError, msgspec.DecodeError):
            return None

    def _stop(self) -> None:
        try:
            with self._connect() as connection:
                process = os.pidfd_open(peer_credentials(connection).pid)
        except OSError:
            return  # it does not run
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
        except ProcessLookupError:
            return
        finally:
            os.close(process)


def _peers(node: LocalNode, leases: Sequence[SubnetLease]) -> Iterator[tuple[str, str]]:
    for lease in leases:
        for path in paths(node, lease):
            if isinstance(path.subnet, IPv4Network):
                yield str(path.subnet), str(path.gateway)
