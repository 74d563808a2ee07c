"""Makes text of others safe to show. Called where errors, log lines and the output of commands are made.

A terminal obeys control characters, wherever they come from: an object's name, a file's, an answer. A path that is not UTF-8 has
its bytes as halves of surrogate pairs (PEP 383), which no encoder takes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOWrapper
from typing import TextIO

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""All controls but the tab and the end of a line, also those of the text's direction, and halves of surrogate pairs."""
_UNPRINTABLE_IN_PATH = re.compile(rf"[\t\n{_UNPRINTABLE.pattern[1:]}")


def _escaped(match: re.Match[str]) -> str:
    """As JSON writes it."""
    return f"\\u{ord(match[0]):04x}"


def _escaped_in_path(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else _escaped(match)


def printable(text: str) -> str:
    """The text with escapes for what is not printable; lines stay lines."""
    return text if text.isascii() and text.isprintable() else _UNPRINTABLE.sub(_escaped, text)


def printable_path(path: str) -> str:
    r"""The same for a path: on one line, and with bytes that are not UTF-8 as `\xff`."""
    return _UNPRINTABLE_IN_PATH.sub(_escaped_in_path, path)


class _PrintableStream:
    """What is printed goes to the stream as printable text. It has no `buffer`, by which one could get around it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding, self.errors = stream.encoding, stream.errors
        self.flush, self.fileno, self.isatty = stream.flush, stream.fileno, stream.isatty

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))


@contextmanager
def printable_output() -> Iterator[None]:
    """Within it all that this process prints is printable, in any encoding. Its children's output is their own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with redirect_stdout(_PrintableStream(sys.stdout)), redirect_stderr(_PrintableStream(sys.stderr)):
        yield
