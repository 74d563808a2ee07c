"""A real kube-apiserver over an etcd that holds a world already, in the benchmark's network namespace."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from bench import api_world, service_world
from bench.programs import built
from percale.lab.kubernetes.command_lines import API_PORT, command_lines
from percale.lab.kubernetes.credentials import Credentials
from percale.model.netconf import parse_network_config

PROGRAMS = ("etcd", "kube-apiserver")
NETWORK = '{"Network": "10.244.0.0/16"}'
_ETCD = "http://127.0.0.1:2379"
_PATIENCE = 180.0
_AT_ONCE = 100
"""Objects of a transaction."""


class ApiServer:
    """Running; the administrator's one connection to it."""

    def __init__(self, credentials: Credentials) -> None:
        self._tls = ssl.create_default_context(cafile=credentials.authority)
        self._tls.load_cert_chain(credentials.certificate("admin"), credentials.key("admin"))
        self._connection = self._connected()
        self.kubeconfig = credentials.kubeconfig("admin")

    def _connected(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(api_world.ADDRESS, API_PORT, timeout=_PATIENCE, context=self._tls)

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """The answer. Raises RuntimeError when it is an error."""
        text = json.dumps(body) if body is not None else None
        self._connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {content.decode(errors='replace')}")
        return content

    def watch(self, path: str) -> http.client.HTTPResponse:
        """All events from now on, on a connection of its own."""
        watching = self._connected()
        watching.request("GET", f"{path}?watch=1")
        return watching.getresponse()

    def is_ready(self) -> bool:
        try:
            return self.request("GET", "/readyz") == b"ok"
        except (OSError, RuntimeError):
            self._connection.close()
            return False


@contextlib.contextmanager
def serving(directory: Path, objects: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[ApiServer]:
    """Until the end, at the node's address. The objects are those of `api_world.registry`."""
    files = Credentials(directory / "kubernetes")
    files.write(f"https://{api_world.ADDRESS}:{API_PORT}", [api_world.ADDRESS])
    programs = {name: built(name) or Path() for name in (*PROGRAMS, "kube-controller-manager", "kube-scheduler")}
    address, services = IPv4Address(api_world.ADDRESS), IPv4Network(service_world.SERVICE_CIDR)
    etcd, api_server, *_ = command_lines(programs, files, address, parse_network_config(NETWORK), (services,))
    with _started(directory / "etcd.log", etcd):
        _until(_etcd_answers, "etcd")
        _fill(objects)
        with _started(directory / "kube-apiserver.log", api_server):
            server = ApiServer(files)
            _until(server.is_ready, "kube-apiserver")
            yield server


def _fill(objects: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Into etcd itself: by the API it would take minutes."""
    remaining = iter(objects)
    while part := list(itertools.islice(remaining, _AT_ONCE)):
        puts = [
            {"requestPut": {"key": _base64(f"/registry/{key}"), "value": _base64(json.dumps(obj))}} for key, obj in part
        ]
        urllib.request.urlopen(f"{_ETCD}/v3/kv/txn", json.dumps({"success": puts}).encode(), timeout=60).close()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _etcd_answers() -> bool:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{_ETCD}/health", timeout=5).close()
        return True
    return False


@contextlib.contextmanager
def _started(log: Path, command: list[str]) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.kill()


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not become ready")
        time.sleep(0.1)
