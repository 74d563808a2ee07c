"""What goes over the agent's unix socket: one request a connection, and its answer.

    request  4 bytes length of the variables, 4 bytes length of the configuration (big-endian),
             the CNI_ variables as NAME=value, each ended by a zero byte, then the network configuration as JSON;
             with the first byte the pod's namespace as an open descriptor (SCM_RIGHTS), where there is one
    answer   4 bytes length, 1 byte exit code, then what to print

The clients are `percale-cni.c`, which a runtime executes, and `ask`, for the lab, which is its own runtime. The agent's end is
`server.py`; all that it reads is bounded: bytes, descriptors and time.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from percale.cni.results import BAD_ENVIRONMENT, IO_FAILURE, CniError

MOST_BYTES = 1 << 20
"""Of a whole request."""
_PREFIX = "CNI_"
_DESCRIPTORS = 4
"""Room for so many; the kernel closes the ones above."""
_ANSWER_TIMEOUT = 60.0


@dataclass(slots=True)
class Frame:
    """What one connection sent. The reader closes all descriptors, whatever happened."""

    variables: dict[str, str] = field(default_factory=dict)
    configuration: bytes = b""
    descriptors: list[int] = field(default_factory=list)

    @property
    def namespace(self) -> int | None:
        """The one descriptor. Raises CniError when there are several."""
        if len(self.descriptors) > 1:
            raise CniError(IO_FAILURE, f"{len(self.descriptors)} descriptors came with the request, one is allowed")
        return self.descriptors[0] if self.descriptors else None

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())


async def read_frame(connection: socket.socket, frame: Frame) -> None:
    """Fill the frame from a non-blocking socket. Raises CniError, or EOFError when the other side ends in between."""
    head = await _read(connection, 8, frame.descriptors)
    sizes = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
    if sum(sizes) > MOST_BYTES:
        raise CniError(IO_FAILURE, f"the request has {sum(sizes)} bytes, {MOST_BYTES} are allowed")
    body = await _read(connection, sum(sizes), frame.descriptors)
    frame.configuration = body[sizes[0] :]
    frame.variables = _variables(body[: sizes[0]])


async def _read(connection: socket.socket, size: int, descriptors: list[int]) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = await _receive(connection, size - len(data), descriptors)
        if not part:
            raise EOFError
        data += part
    return bytes(data)


async def _receive(connection: socket.socket, size: int, descriptors: list[int]) -> bytes:
    """Some bytes; descriptors received with them are appended to the list."""
    space = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)
    while True:
        try:
            data, ancillary, _, _ = connection.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            await _readable(connection)
            continue
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                descriptors += received
        return data


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _variables(block: bytes) -> dict[str, str]:
    """NAME=value, each ended by a zero byte. Raises CniError."""
    if block and not block.endswith(b"\0"):
        raise CniError(IO_FAILURE, "the request's variables are cut short")
    found: dict[str, str] = {}
    for entry in block.split(b"\0")[:-1]:
        try:
            name, equals, value = entry.decode().partition("=")
        except UnicodeDecodeError as error:
            raise CniError(BAD_ENVIRONMENT, f"the variable {entry!r} is not UTF-8 text") from error
        if not equals or not name.startswith(_PREFIX):
            raise CniError(IO_FAILURE, f"{entry!r} is not a CNI_ variable")
        found[name] = value
    return found


def answer_frame(code: int, output: bytes) -> bytes:
    """The exit code and what the plugin prints."""
    return len(output).to_bytes(4, "big") + bytes((code,)) + output


# A client's half


def ask(path: Path, variables: Mapping[str, str], configuration: bytes, namespace: int | None) -> tuple[int, bytes]:
    """One request; the answer's exit code and what to print. Blocks. Raises OSError when either does not get through."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.settimeout(_ANSWER_TIMEOUT)
        agent.connect(str(path))
        _send(agent, request_frame(variables, configuration), namespace)
        head = _receive_all(agent, 5)
        return head[4], _receive_all(agent, int.from_bytes(head[:4], "big"))


def request_frame(variables: Mapping[str, str], configuration: bytes) -> bytes:
    """Without the namespace."""
    packed = b"".join(f"{name}={value}\0".encode() for name, value in variables.items())
    return len(packed).to_bytes(4, "big") + len(configuration).to_bytes(4, "big") + packed + configuration


def _send(agent: socket.socket, request: bytes, namespace: int | None) -> None:
    sent = socket.send_fds(agent, [request], [] if namespace is None else [namespace])
    with suppress(BrokenPipeError):  # an agent that refuses a request does not read all of it: its answer says why
        agent.sendall(request[sent:])


def _receive_all(agent: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = agent.recv(size - len(data))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "the agent went away")
        data += part
    return data
