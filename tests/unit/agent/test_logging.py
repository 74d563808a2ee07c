"""One line for each thing that happened."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

from percale.agent.logging import LineLog

NOON = datetime(2026, 8, 1, 12, 0, 0, 5000, tzinfo=UTC)


def logged(form: str, *calls: tuple[str, str, dict[str, object]]) -> str:
    stream = io.StringIO()
    log = LineLog("json" if form == "json" else "text", stream, clock=lambda: NOON)
    for level, event, fields in calls:
        getattr(log, level)(event, **fields)
    return stream.getvalue()


def test_text_quotes_only_what_needs_it() -> None:
    line = logged("text", ("info", "peer joined", {"node": "n2", "why": 'a "b"\nc', "absent": None}))
    assert line == '12:00:00.005 info  peer joined  node=n2 why="a \\"b\\"\\nc"\n'


def test_a_line_stays_one_line() -> None:
    line = logged("text", ("error", "x", {"text": "a\rb\x1b[2J"}))
    assert line.count("\n") == 1 and "\x1b" not in line and "\r" not in line


def test_json_is_one_object_a_line() -> None:
    line = logged("json", ("warn", "problem", {"error": "no\nroute", "count": 3}))
    assert json.loads(line) == {
        "time": "2026-08-01T12:00:00.005+00:00",
        "level": "warn",
        "event": "problem",
        "error": "no\nroute",
        "count": 3,
    }


def test_kernel_changes_are_lines_for_a_shell() -> None:
    stream = io.StringIO()
    LineLog("text", stream).command("ip link set lo up")
    assert stream.getvalue() == "+ ip link set lo up\n"
    stream = io.StringIO()
    LineLog("json", stream).command("ip link set lo up")
    assert json.loads(stream.getvalue())["command"] == "ip link set lo up"


def test_a_closed_stream_ends_nothing() -> None:
    stream = io.StringIO()
    log = LineLog("text", stream)
    stream.close()
    log.info("still here")
    assert stream.closed


def test_nothing_in_a_line_moves_a_terminal_or_cannot_be_encoded() -> None:
    for form in ("text", "json"):
        line = logged(form, ("warn", "x", {"a": "\x9b31m", "b": "\u202ex", "c": "\udcff\x7f"}))
        assert line.rstrip("\n").isprintable()
