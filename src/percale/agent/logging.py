"""The agent's log: one line on stderr per event, for people (text) or machines (json).

    12:03:55.120 info  peer joined  node=node2 subnet=10.244.2.0/24
    {"time":"2026-08-01T12:03:55.120+00:00","level":"info","event":"peer joined","node":"node2","subnet":"10.244.2.0/24"}

Kernel changes (`-v`) are shell commands, so they are printed verbatim, after a `+`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, Protocol, TextIO

from percale.printable import printable

Level = Literal["info", "warn", "error"]

_BARE = re.compile(r"[^\s\"=]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Log(Protocol):
    """The interface that the agent's parts log to."""

    def info(self, event: str, **fields: object) -> None:
        """A normal event."""

    def warn(self, event: str, **fields: object) -> None:
        """A problem that may be transient, or that needs attention."""

    def error(self, event: str, **fields: object) -> None:
        """A request was rejected, or something was lost."""


class LineLog:
    """Writes each event as one line. A closed pipe ends only the log."""

    def __init__(
        self,
        form: Literal["text", "json"] = "text",
        stream: TextIO | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._render = _as_json if form == "json" else _as_text
        self._form = form
        self._clock = clock

    def info(self, event: str, **fields: object) -> None:
        self._write("info", event, fields)

    def warn(self, event: str, **fields: object) -> None:
        self._write("warn", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write("error", event, fields)

    def command(self, line: str) -> None:
        """The command line of a kernel change before it is made. Called from worker threads too."""
        if self._form == "json":
            self._write("info", "kernel", {"command": line})
        else:
            self._print(f"+ {line}\n")

    def _write(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        self._print(self._render(self._clock(), level, event, fields))

    def _print(self, line: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(printable(line))
            self._stream.flush()


def _as_text(when: datetime, level: Level, event: str, fields: Mapping[str, object]) -> str:
    pairs = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items() if value is not None)
    time = when.strftime("%H:%M:%S.") + f"{when.microsecond // 1000:03d}"
    return f"{time} {level:5} {event}{'  ' if pairs else ''}{pairs}\n"


def _quoted(value: object) -> str:
    text = str(value)
    return text if _BARE.fullmatch(text) and not _CONTROL.search(text) else json.dumps(text, ensure_ascii=False)


def _as_json(when: datetime, level: Level, event: str, fields: Mapping[str, object]) -> str:
    record: dict[str, Any] = {"time": when.isoformat(timespec="milliseconds"), "level": level, "event": event}
    record |= {name: value for name, value in fields.items() if value is not None}
    return json.dumps(record, default=str, ensure_ascii=False) + "\n"
