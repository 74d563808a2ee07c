"""The lab's API: control.sock, one JSON request a connection, one JSON answer. `client.py` is the command's side.

    {"verb": "scale", "default_lab": "lab", "kind": "deployment", "name": "web", "replicas": 3}
    {"content": {…}}  or  {"errors": [{"what": "…", "where": null, "hint": "…"}], "type": "NotFound"}

For the lab's owner only: by the socket's mode, the directory's mode and the peer's credentials.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, get_type_hints

import msgspec
from msgspec import structs

from percale.errors import LabError, PercaleError
from percale.lab.commands import ASKER
from percale.lab.run_dir import LabDir
from percale.model.manifest.json_text import read_json_text
from percale.unix_socket import peer_credentials

LONGEST_REQUEST = 64 * 1024 * 1024
"""Bytes; a request may contain whole manifests."""

Verb = Callable[..., Awaitable[dict[str, Any]]]
Answer = dict[str, Any]


@asynccontextmanager
async def serve(lab_dir: LabDir, verbs: Mapping[str, Verb]) -> AsyncIterator[None]:
    """Serve the API within this block."""
    handler = RequestHandler(verbs)
    server = await asyncio.start_unix_server(
        lambda reader, writer: _handle_connection(handler, reader, writer),
        sock=_bind_socket(lab_dir),
        limit=LONGEST_REQUEST,
    )
    async with server:
        yield


def _bind_socket(lab_dir: LabDir) -> socket.socket:
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(lab_dir.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        endpoint.bind(f"/proc/self/fd/{directory}/{lab_dir.control.name}")
    finally:
        os.umask(mask)
        os.close(directory)
    return endpoint


async def _handle_connection(
    handler: RequestHandler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        if peer_credentials(writer.get_extra_info("socket")).uid != os.geteuid():
            return
        answer = await handler.answer(await reader.readline())
        writer.write(json.dumps(answer).encode())
        await writer.drain()
    except (ConnectionError, ValueError):
        return  # the command has exited, or its request is too long
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


class RequestHandler:
    """What a request gets, by its verb."""

    def __init__(self, verbs: Mapping[str, Verb]) -> None:
        self._verbs = {name: (verb, _arguments(verb)) for name, verb in verbs.items()}

    async def answer(self, line: bytes) -> Answer:
        """Whatever the line is."""
        try:
            request = read_json_text(line.decode())
            ASKER.set(request.pop("default_lab", None))  # each connection has a task of its own
            verb, arguments = self._verbs[request.pop("verb")]
            given = structs.asdict(msgspec.convert(request, arguments))
        except (ValueError, KeyError, AttributeError, TypeError):
            return _errors(LabError("not a request of this lab's API"))
        try:
            return {"content": await verb(**given)}
        except PercaleError as error:
            return _errors(error)
        except Exception as error:  # one request must not end the lab; the log has it all
            traceback.print_exc()
            return _errors(LabError(f"internal error: {type(error).__name__}: {error}"))


def _errors(error: PercaleError) -> Answer:
    return {"errors": [each.plain for each in error.parts], "type": type(error).__name__}


def _arguments(verb: Verb) -> type[msgspec.Struct]:
    """What the verb takes, each argument with its type; all of them are there."""
    types = {name: kind for name, kind in get_type_hints(verb, include_extras=True).items() if name != "return"}
    return msgspec.defstruct("Arguments", types.items(), forbid_unknown_fields=True)
