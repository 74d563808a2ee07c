"""The lab's API: control.sock, one JSON request a connection, one JSON answer. `asking.py` is the command's side.

    {"verb": "scale", "kind": "deployment", "name": "web", "replicas": 3}
    {"content": {…}}  or  {"error": "what; what next", "sort": "NotFound"}

For the lab's owner only: the socket's mode, the directory's mode, and the peer's credentials say so.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from percale.errors import PercaleError
from percale.lab.place import LabPlace

LONGEST_REQUEST = 64 * 1024 * 1024
"""Bytes; a request may carry whole manifests."""

Verb = Callable[..., Awaitable[dict[str, Any]]]
Answer = dict[str, Any]


@asynccontextmanager
async def served(place: LabPlace, verbs: Mapping[str, Verb]) -> AsyncIterator[None]:
    """The API is there within this block."""
    server = await asyncio.start_unix_server(
        lambda reader, writer: _converse(verbs, reader, writer), sock=_listening(place), limit=LONGEST_REQUEST
    )
    async with server:
        yield


def _listening(place: LabPlace) -> socket.socket:
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(place.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        endpoint.bind(f"/proc/self/fd/{directory}/{place.control.name}")
    finally:
        os.umask(mask)
        os.close(directory)
    return endpoint


async def _converse(verbs: Mapping[str, Verb], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        if _peer_uid(writer.get_extra_info("socket")) != os.geteuid():
            return
        answer = await _answer(verbs, await reader.readline())
        writer.write(json.dumps(answer).encode())
        await writer.drain()
    except (ConnectionError, ValueError):
        return  # the command has gone, or its request is longer than any of ours
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _answer(verbs: Mapping[str, Verb], line: bytes) -> Answer:
    try:
        request = json.loads(line)
        verb = verbs[request.pop("verb")]
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError):
        return {"error": "not a request of this lab's API", "sort": "LabError"}
    try:
        return {"content": await verb(**request)}
    except PercaleError as error:
        return {"error": str(error), "sort": type(error).__name__}
    except Exception as error:  # one request must not end the lab; the log has it all
        traceback.print_exc()
        return {"error": f"internal error: {type(error).__name__}: {error}", "sort": "LabError"}


def _peer_uid(peer: socket.socket) -> int:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid
