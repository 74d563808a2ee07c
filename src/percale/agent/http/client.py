"""Fetches a running agent's status over HTTP; standard library only, so that `percale status` starts fast.

Called by cli/status.py and checks/host.py.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from percale.agent.config.loader import load
from percale.agent.status import Status
from percale.errors import AgentError, BadConfig
from percale.model.manifest.json_text import decode_json

_TIMEOUT = 5.0
"""Seconds."""


def address(file: Path | None, environ: Mapping[str, str], flag: str | None) -> str:
    """Where the agent serves HTTP, from the agent's own configuration. Raises BadConfig."""
    flags = {"store": "files:/unused"}  # required by the agent, not by its client
    if flag is not None:
        flags["http"] = flag
    settings = load(file, environ, flags)
    if settings.http is None:
        raise BadConfig("the agent serves no HTTP", hint="set http in its configuration, and restart it")
    return settings.http


def fetch(where: str, timeout_seconds: float = _TIMEOUT) -> bytes:
    """The status document. Raises AgentError."""
    connection = _connection(where, timeout_seconds)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise AgentError(
            f"no agent answers: {getattr(error, 'strerror', None) or error or type(error).__name__}",
            where=where,
            hint="start one with percale agent, or name its address with --http",
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise AgentError(
            f"not an agent: HTTP {answer.status}", where=where, hint="name the agent's address with --http"
        )
    return content


def decode(document: bytes) -> Status:
    """Raises AgentError."""
    try:
        return decode_json(msgspec.json.Decoder(Status), document)
    except msgspec.DecodeError as error:
        raise AgentError(
            f"an answer that this version does not understand: {error}", hint="restart the agent"
        ) from error


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(where: str, timeout_seconds: float) -> http.client.HTTPConnection:
    if where.startswith("unix:"):
        return _UnixConnection(where.removeprefix("unix:"), timeout_seconds)
    host, _, port = where.rpartition(":")
    host = "localhost" if host == "*" else host.strip("[]")
    return http.client.HTTPConnection(host, int(port), timeout=timeout_seconds)
