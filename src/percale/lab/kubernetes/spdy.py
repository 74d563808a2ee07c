"""SPDY/3.1, as far as port forwarding needs it: frames to and from bytes. Used by `port_forward.py`.

    control   1, version (15 bits), type (16)   flags (8), length (24)   what the type has
    data      0, stream (31)                    flags (8), length (24)   bytes

Headers are compressed with one zlib stream a direction, which begins with a dictionary. Windows are not kept: Kubernetes' library
neither announces nor obeys any. Source: draft-mbelshe-httpbis-spdy-00 and the changes of 3.1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from msgspec import Struct

_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _GOAWAY, _HEADERS = 1, 2, 3, 6, 7, 8
_CONTROL = 0x8003_0000
"""The first word of a control frame, without its type."""
_FIN = 1
_HEAD = struct.Struct(">II")
_WORD = struct.Struct(">I")
_LONGEST_CONTROL = 1 << 16
"""Bytes of a control frame, and of its headers."""
_DICTIONARY_NAMES = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow"
    " authorization cache-control connection content-base content-encoding content-language content-length"
    " content-location content-md5 content-range content-type date etag expect expires from host if-match"
    " if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma"
    " proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade"
    " user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie"
    " keep-alive origin"
)
_DICTIONARY_REST = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    b"403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    b"text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _with_length(text: bytes) -> bytes:
    return _WORD.pack(len(text)) + text


_DICTIONARY = (
    b"".join(_with_length(name.replace("_", " ").encode()) for name in _DICTIONARY_NAMES.split()) + _DICTIONARY_REST
)


class SpdyError(Exception):
    """The bytes are no frames."""


class StreamOpened(Struct, frozen=True):
    """By the client; it waits for the reply."""

    stream: int
    headers: Mapping[str, str]


class StreamData(Struct, frozen=True):
    """`last`: the client sends no more."""

    stream: int
    data: bytes
    last: bool


class StreamReset(Struct, frozen=True):
    """The client gives the stream up."""

    stream: int


class Ping(Struct, frozen=True):
    """It is sent back as it is."""

    number: int


class GoingAway(Struct, frozen=True):
    """The client ends the connection."""


Frame: TypeAlias = StreamOpened | StreamData | StreamReset | Ping | GoingAway


class FrameReader:
    """The client's frames from its bytes, in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=_DICTIONARY)

    def frames(self, data: bytes) -> Iterator[Frame]:
        """Those that are complete with this data. Raises SpdyError."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            first, second = _HEAD.unpack_from(self._buffer)
            length, flags = second & 0xFF_FFFF, second >> 24
            is_control = first >> 31
            if is_control and length > _LONGEST_CONTROL:
                raise SpdyError(f"a control frame of {length} bytes")
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            if not is_control:
                yield StreamData(first, body, bool(flags & _FIN))
            elif (frame := self._control(first, body)) is not None:
                yield frame
                if flags & _FIN and isinstance(frame, StreamOpened):
                    yield StreamData(frame.stream, b"", last=True)

    def _control(self, first: int, body: bytes) -> Frame | None:
        """None for what nobody needs: settings, windows, further headers."""
        if first & 0xFFFF_0000 != _CONTROL:
            raise SpdyError(f"version {first >> 16 & 0x7FFF}")
        try:
            match first & 0xFFFF:
                case 1:
                    return StreamOpened(_word(body, 0), self._headers(body[10:]))
                case 8:
                    self._headers(body[4:])  # one compressed stream for all
                case 3:
                    return StreamReset(_word(body, 0))
                case 6:
                    return Ping(_word(body, 0))
                case 7:
                    return GoingAway()
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise SpdyError(str(error)) from error
        return None

    def _headers(self, packed: bytes) -> dict[str, str]:
        block = self._inflate.decompress(packed, _LONGEST_CONTROL)
        if self._inflate.unconsumed_tail:
            raise SpdyError("too many headers")
        texts = []
        position = _WORD.size
        for _ in range(2 * _word(block, 0)):
            end = position + _WORD.size + _word(block, position)
            texts.append(block[position + _WORD.size : end].decode())
            position = end
        return dict(zip(texts[::2], texts[1::2], strict=True))


class FrameWriter:
    """This side's frames as bytes, in the order in which they are sent."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=_DICTIONARY)

    def reply(self, stream: int) -> bytes:
        """The stream is taken, without headers."""
        none = self._deflate.compress(_WORD.pack(0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control(_SYN_REPLY, _WORD.pack(stream) + none)

    def data(self, stream: int, data: bytes, *, last: bool = False) -> bytes:
        """Less than 16 MiB."""
        return _HEAD.pack(stream, (_FIN if last else 0) << 24 | len(data)) + data

    def ping(self, number: int) -> bytes:
        return _control(_PING, _WORD.pack(number))


def _control(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(_CONTROL | kind, len(body)) + body


def _word(data: bytes, offset: int) -> int:
    found: int = _WORD.unpack_from(data, offset)[0]
    return found
