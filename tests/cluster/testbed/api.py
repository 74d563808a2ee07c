"""Requests to a testbed's API server as its administrator, without kubectl's own start, which takes longer than the server."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

from tests.cluster.testbed.layout import CONTROL_PLANE, Layout
from tests.cluster.testbed.processes import HOLDER, TestbedError, pid_of

from percale.kernel.netns import NetnsThread

_PORT = 6443
_PATIENCE = 120.0
_TYPES = {"PATCH": "application/merge-patch+json"}


class Api:
    """One connection; a thread has its own."""

    def __init__(self, connection: HTTPSConnection) -> None:
        self._connection = connection

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the server answers."""
        headers = {"Content-Type": _TYPES.get(method, "application/json")}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        if response.status >= 300:
            raise TestbedError(f"{method} {path}: {answer.get('message', response.status)}")
        return answer

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        """Events, the objects that there are first; the connection is of no use afterwards."""
        self._connection.request("GET", f"{path}?watch=true")
        response = self._connection.getresponse()
        while line := response.readline():
            yield json.loads(line)


def connect(layout: Layout, connection: HTTPConnection) -> None:
    """From the control plane's network. Raises OSError."""
    namespace = Path(f"/proc/{pid_of(layout, HOLDER)}/root/run/netns/{CONTROL_PLANE}")
    with namespace.open() as entered, closing(NetnsThread(entered.fileno())) as thread:
        thread.run(connection.connect)


@contextmanager
def api(layout: Layout) -> Iterator[Api]:
    """From the control plane's network."""
    host, keys = layout.control_plane, layout.root / "keys"
    context = ssl.create_default_context(cafile=str(keys / "authority.crt"))
    context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
    connection = HTTPSConnection(host, _PORT, context=context, timeout=_PATIENCE)
    connect(layout, connection)
    with closing(connection):
        yield Api(connection)
