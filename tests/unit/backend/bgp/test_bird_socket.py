"""BIRD's answers, as its versions give them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from percale.backend.bgp.bird_socket import LearnedRoute, Line, ProtocolState, ask, protocols, routes
from percale.errors import AgentError

PROTOCOLS = [
    Line(2002, "Name       Proto      Table      State  Since         Info"),
    Line(1002, "device1    Device     ---        up     2026-11-30 06:33:35  "),
    Line(
        1002,
        "Mesh_192_0_2_2 BGP        ---        start  2026-11-30 06:33:35  Active        Socket: Connection refused",
    ),
    Line(0, ""),
]
ROUTES = [
    Line(1007, "Table master4:"),
    Line(1007, "10.244.2.0/24        unicast [Mesh_192_0_2_2 2026-11-30 06:33:35 from 192.0.2.2] * (100) [i]"),
    Line(1007, "\tvia 192.0.2.2 on eth0"),
    Line(1007, "                     unicast [Node_192_0_2_3_port_1790 2026-11-30 06:33:35 from 192.0.2.3] (100) [i]"),
    Line(1007, "\tvia 192.0.2.2 on eth0"),
    Line(1007, "10.244.1.0/24        blackhole [confirmed4 2026-11-30 06:33:35] * (200)"),
    Line(0, ""),
]


def test_protocols() -> None:
    assert list(protocols(PROTOCOLS)) == [
        ProtocolState("device1", "Device", "up", "2026-11-30 06:33:35", ""),
        ProtocolState("Mesh_192_0_2_2", "BGP", "start", "2026-11-30 06:33:35", "Active Socket: Connection refused"),
    ]


def test_routes() -> None:
    assert list(routes(ROUTES)) == [
        LearnedRoute("10.244.2.0/24", "Mesh_192_0_2_2", "via 192.0.2.2 on eth0", best=True),
        LearnedRoute("10.244.2.0/24", "Node_192_0_2_3_port_1790", "via 192.0.2.2 on eth0", best=False),
        LearnedRoute("10.244.1.0/24", "confirmed4", "blackhole", best=True),
    ]


async def answering(path: Path, *chunks: bytes) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"0001 BIRD 2.0.12 ready.\n")
        await reader.readline()
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(answer, path)


async def test_an_answer_in_parts_and_continued_lines(tmp_path: Path) -> None:
    async with await answering(tmp_path / "ctl", b"1007-10.0.0.0/8 unicast", b"\n \tvia x\n00", b"00 \n"):
        assert await ask(tmp_path / "ctl", "show route") == [(1007, "10.0.0.0/8 unicast"), (1007, "\tvia x"), (0, "")]


async def test_an_error_is_told_and_a_broken_answer_is_no_answer(tmp_path: Path) -> None:
    async with await answering(tmp_path / "ctl", b"8002 bird.conf:3:1 syntax error\n"):
        with pytest.raises(AgentError, match="syntax error"):
            await ask(tmp_path / "ctl", "configure")
    async with await answering(tmp_path / "other", b"1007-10.0"):
        with pytest.raises(OSError, match="closed"):
            await ask(tmp_path / "other", "show route")
    with pytest.raises(OSError, match="No such file"):
        await ask(tmp_path / "nosuch", "show route")
