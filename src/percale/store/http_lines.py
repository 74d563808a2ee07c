"""Streams of JSON lines over HTTP: the watches of etcd and of Kubernetes' API."""

from __future__ import annotations

from collections.abc import AsyncIterator

_LONGEST = 64 * 2**20
"""Bytes; an object of either server has 1.5 MiB at most."""


class HalfLine(Exception):
    """The stream ended in the middle of a line, or a line has no end."""


async def whole_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Raises HalfLine."""
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        parts.append(first)
        size += len(first)
        for part in rest:
            yield b"".join(parts)
            parts, size = [part], len(part)
        if size > _LONGEST:
            raise HalfLine("a line without an end")
    if any(parts):
        raise HalfLine("half a line")
