"""The wire between a client and the agent: both halves together, and what is not of that form."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from percale.cni.results import CniError
from percale.cni.wire_format import MOST_BYTES, Frame, answer_frame, ask, read_frame


def packed(variables: bytes = b"CNI_COMMAND=ADD\0", configuration: bytes = b"{}") -> bytes:
    return len(variables).to_bytes(4, "big") + len(configuration).to_bytes(4, "big") + variables + configuration


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair(socket.AF_UNIX)
    far.setblocking(False)
    with near, far:
        yield near, far


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def read(far: socket.socket) -> Frame:
    frame = Frame()
    async with asyncio.timeout(30):
        await read_frame(far, frame)
    return frame


async def test_a_client_and_the_agent_understand_each_other(tmp_path: Path) -> None:
    before = open_descriptors()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.setblocking(False)
        answer: Future[tuple[int, bytes]] = Future()
        sent = b"x" * 300_000  # more than a socket's buffer holds
        own = os.open("/proc/self/ns/net", os.O_RDONLY)
        variables = {"CNI_COMMAND": "ADD"}
        asking = threading.Thread(target=lambda: answer.set_result(ask(tmp_path / "s", variables, sent, own)))
        asking.start()
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        with connection:
            frame = await read(connection)
            assert frame.variables == {"CNI_COMMAND": "ADD"}
            assert frame.configuration == b"x" * 300_000
            assert frame.namespace is not None
            assert os.path.samestat(os.fstat(frame.namespace), os.fstat(own))
            assert not os.get_inheritable(frame.namespace)
            await asyncio.get_running_loop().sock_sendall(connection, answer_frame(1, b"y" * 300_000))
        asking.join(5)
        assert answer.result(0) == (1, b"y" * 300_000)
        frame.close()
        os.close(own)
    assert open_descriptors() == before


async def test_a_request_may_come_byte_by_byte() -> None:
    with pair() as (near, far):
        reading = asyncio.create_task(read(far))
        for byte in packed():
            near.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await reading).variables == {"CNI_COMMAND": "ADD"}


@pytest.mark.parametrize("cut", [0, 4, 8, 12])
async def test_a_request_that_ends_early(cut: int) -> None:
    with pair() as (near, far):
        near.send(packed()[:cut])
        near.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            await read(far)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ((MOST_BYTES).to_bytes(4, "big") + (1).to_bytes(4, "big"), "1048577 bytes, 1048576 are allowed"),
        (b"\xff" * 8, "are allowed"),
        (packed(b"CNI_COMMAND=ADD"), "cut short"),
        (packed(b"CNI_COMMAND\0"), "not a CNI_ variable"),
        (packed(b"LD_PRELOAD=x\0"), "not a CNI_ variable"),
        (packed(b"CNI_ARGS=\xff\0"), "not UTF-8"),
    ],
)
async def test_what_is_no_request(sent: bytes, words: str) -> None:
    with pair() as (near, far):
        near.send(sent)
        with pytest.raises(CniError, match=words):
            await read(far)


@pytest.mark.parametrize("count", [2, 4, 20])
async def test_several_descriptors_are_refused_and_none_is_kept(count: int) -> None:
    before = open_descriptors()
    with pair() as (near, far):
        near.sendmsg([packed()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * count))])
        frame = await read(far)
        with pytest.raises(CniError, match="descriptors came with the request"):
            _ = frame.namespace
        frame.close()
        frame.close()
    assert open_descriptors() == before
