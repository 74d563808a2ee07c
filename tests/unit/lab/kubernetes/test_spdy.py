"""Frames of SPDY/3.1, as a client writes them and reads ours."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.lab.kubernetes import spdy
from percale.lab.kubernetes.spdy import (
    Frame,
    FrameReader,
    FrameWriter,
    GoingAway,
    Ping,
    SpdyError,
    StreamData,
    StreamOpened,
    StreamReset,
)

HEADERS = {"streamtype": "data", "port": "80", "requestid": "0"}


def control(kind: int, body: bytes, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(body)) + body


class Client:
    """Its headers are one compressed stream."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=spdy._DICTIONARY)

    def headers(self, headers: dict[str, str]) -> bytes:
        texts = [text.encode() for pair in headers.items() for text in pair]
        block = struct.pack(">I", len(headers)) + b"".join(struct.pack(">I", len(each)) + each for each in texts)
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def opened(self, stream: int, headers: dict[str, str], flags: int = 0) -> bytes:
        return control(1, struct.pack(">IIH", stream, 0, 0) + self.headers(headers), flags)


def session() -> tuple[bytes, list[Frame]]:
    """One of everything."""
    client = Client()
    sent = (
        control(4, struct.pack(">III", 1, 4, 100)),
        client.opened(1, HEADERS),
        client.opened(3, {**HEADERS, "streamtype": "error"}, flags=1),
        control(8, struct.pack(">I", 1) + client.headers({"more": "x"})),
        client.opened(5, HEADERS),
        struct.pack(">II", 1, 5) + b"hello",
        struct.pack(">II", 1, 1 << 24),
        control(9, struct.pack(">II", 1, 100)),
        control(3, struct.pack(">II", 5, 5)),
        control(6, struct.pack(">I", 7)),
        control(7, struct.pack(">II", 5, 0)),
    )
    frames: list[Frame] = [
        StreamOpened(1, HEADERS),
        StreamOpened(3, {**HEADERS, "streamtype": "error"}),
        StreamData(3, b"", last=True),
        StreamOpened(5, HEADERS),
        StreamData(1, b"hello", last=False),
        StreamData(1, b"", last=True),
        StreamReset(5),
        Ping(7),
        GoingAway(),
    ]
    return b"".join(sent), frames


@given(st.lists(st.integers(1, 40)))
def test_frames_come_in_pieces_of_any_size(sizes: list[int]) -> None:
    data, frames = session()
    reader, found = FrameReader(), list[Frame]()
    for size in sizes:
        found += reader.frames(data[:size])
        data = data[size:]
    assert [*found, *reader.frames(data)] == frames


def test_the_dictionary_is_the_drafts() -> None:
    """zlib's streams name it by this sum."""
    assert zlib.adler32(spdy._DICTIONARY) == 0xE3C6A7C2


def test_what_is_written() -> None:
    writer, inflate = FrameWriter(), zlib.decompressobj(zdict=spdy._DICTIONARY)
    for stream in (1, 3):
        reply = writer.reply(stream)
        assert reply[:4] == bytes((0x80, 3, 0, 2))
        assert struct.unpack(">II", reply[4:12]) == (len(reply) - 8, stream)
        assert inflate.decompress(reply[12:]) == bytes(4)
    assert writer.data(3, b"x") == bytes((0, 0, 0, 3, 0, 0, 0, 1)) + b"x"
    assert writer.data(3, b"", last=True) == bytes((0, 0, 0, 3, 1, 0, 0, 0))
    assert list(FrameReader().frames(writer.ping(9))) == [Ping(9)]


@pytest.mark.parametrize(
    "data",
    [
        control(6, b"", version=2),
        control(6, b"x"),
        control(1, b"12345678901"),
        control(1, struct.pack(">IIH", 1, 0, 0) + Client().headers({"a": "x" * 70_000})),
        control(1, struct.pack(">IIH", 1, 0, 0) + zlib.compressobj(zdict=spdy._DICTIONARY).flush(zlib.Z_SYNC_FLUSH)),
        struct.pack(">HHI", 0x8003, 1, 1 << 20),
    ],
    ids=["version", "short", "no zlib", "many headers", "no headers", "long"],
)
def test_what_is_no_spdy(data: bytes) -> None:
    with pytest.raises(SpdyError):
        list(FrameReader().frames(data))
