"""A watch that is left cuts its connection at once."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
import warnings
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.certificates import authority, issue

from percale.model.configmap import ConfigMap
from percale.store.kubernetes.api_client import ApiClient
from percale.store.kubernetes.cluster_access import ClusterAccess
from percale.store.kubernetes.resources import operation

pytestmark = pytest.mark.usefixtures("loopback")
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n"


def test_a_server_that_does_not_answer_the_end_of_tls_holds_nothing_open(tmp_path: Path) -> None:
    ours = authority(tmp_path)
    pair = issue(ours, "server", subject="/CN=server", serves=["IP:127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    left = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as stream:
                stream.recv(65536)
                stream.sendall(ANSWER)
                left.wait(30)

        async def watch() -> None:
            port = listener.getsockname()[1]
            client = ApiClient(ClusterAccess(server=f"https://127.0.0.1:{port}", ca=ours.certificate, token="t"))
            async with aclosing(client.watch("/", operation("watch", ConfigMap), {})) as lines:
                assert await anext(lines) == b"{}"
            await client.close()

        server = threading.Thread(target=serve)
        server.start()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            asyncio.run(watch())
            gc.collect()
        left.set()
        server.join()
    assert [str(each.message) for each in found] == []
