"""A watch that is left, and a request that is given up, cut their connections at once."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
import warnings
from collections.abc import Awaitable, Callable
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


async def leave_a_watch(client: ApiClient, asked: threading.Event) -> None:
    async with aclosing(client.watch("/", operation("watch", ConfigMap), {})) as lines:
        assert await anext(lines) == b"{}"


async def give_up_a_request(client: ApiClient, asked: threading.Event) -> None:
    request = asyncio.create_task(client.get("/silent", operation("get", ConfigMap)))
    await asyncio.to_thread(asked.wait, 30)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)


@pytest.mark.parametrize("end", [leave_a_watch, give_up_a_request])
def test_a_server_that_does_not_answer_the_end_of_tls_holds_nothing_open(
    end: Callable[[ApiClient, threading.Event], Awaitable[None]], tmp_path: Path
) -> None:
    ours = authority(tmp_path)
    pair = issue(ours, "server", subject="/CN=server", serves=["IP:127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    asked, left = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as stream:
                if b"/silent" not in stream.recv(65536):
                    stream.sendall(ANSWER)
                asked.set()
                left.wait(30)

        async def use() -> None:
            port = listener.getsockname()[1]
            client = ApiClient(ClusterAccess(server=f"https://127.0.0.1:{port}", ca=ours.certificate, token="t"))
            await end(client, asked)
            await client.close()

        server = threading.Thread(target=serve)
        server.start()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            asyncio.run(use())
            gc.collect()
        left.set()
        server.join()
    assert [str(each.message) for each in found] == []
