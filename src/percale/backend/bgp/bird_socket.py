"""BIRD's control socket: a command, and the lines of its answer. Called by `bird_process.py`.

A line begins with a code of four digits and `-`, in the last one a blank: 0xxx is done, 8xxx and 9xxx are errors. A line that
begins with a blank has the code of the one before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from percale.errors import AgentError

_PATIENCE = 10.0
"""Seconds for an answer."""
PROTOCOL, DETAIL, ROUTE = 1002, 1006, 1007
"""Codes of a line of `show protocols`, of its details, and of `show route`."""


class Line(NamedTuple):
    """One line of an answer."""

    code: int
    text: str


class ProtocolState(Struct, frozen=True):
    """One protocol, as `show protocols` has it."""

    name: str
    kind: str
    state: str
    since: str
    info: str


async def ask(socket: Path, command: str) -> list[Line]:
    """The answer's lines. Raises OSError, TimeoutError, and AgentError for an error of BIRD's."""
    async with asyncio.timeout(_PATIENCE):
        directory = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # by the directory's descriptor, for a socket's path has 107 bytes at most
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{directory}/{socket.name}")
        finally:
            os.close(directory)
        try:
            await _answer(reader)
            writer.write(f"{command}\n".encode())
            lines = await _answer(reader)
        finally:
            writer.close()
    last = lines[-1]
    if last.code >= 8000:
        raise AgentError(last.text, where=f"BIRD: {command}")
    return lines


async def _answer(reader: asyncio.StreamReader) -> list[Line]:
    lines: list[Line] = []
    while True:
        raw = await reader.readline()
        if not raw.endswith(b"\n"):
            raise ConnectionResetError("BIRD closed its socket")
        text = raw.decode(errors="replace").rstrip("\n")
        if text[:4].isdecimal() and text[4:5] in (" ", "-"):
            lines.append(Line(int(text[:4]), text[5:]))
            if text[4] == " ":
                return lines
        elif lines:
            lines.append(Line(lines[-1].code, text[1:]))


def protocols(lines: Iterable[Line]) -> Iterator[ProtocolState]:
    """Of `show protocols`; a time has two words."""
    for line in lines:
        words = line.text.split()
        if line.code == PROTOCOL and len(words) >= 6:
            name, kind, _, state, day, time, *info = words
            yield ProtocolState(name, kind, state, f"{day} {time}", " ".join(info))


class LearnedRoute(Struct, frozen=True):
    """A line of `show route`."""

    network: str
    protocol: str
    via: str
    best: bool


def routes(lines: Iterable[Line]) -> Iterator[LearnedRoute]:
    """Of `show route`: `10.244.2.0/24 unicast [Mesh_… 2026-… from 192.168.9.2] * (100) [i]`, then its next hop."""
    network, protocol, best = "", "", False
    for line in lines:
        words = line.text.split()
        if line.code != ROUTE or not words:
            continue
        if words[0] in ("via", "dev"):
            if protocol:
                yield LearnedRoute(network, protocol, line.text.strip(), best)
                protocol = ""
        elif "[" in line.text:
            head, _, rest = line.text.partition("[")
            if not line.text[0].isspace():
                network = head.split()[0]
            protocol = rest.split()[0]
            best = "] *" in rest
            if "unicast" not in head:
                yield LearnedRoute(network, protocol, head.split()[-1], best)
                protocol = ""
