"""The last requests that a pod has answered."""

from __future__ import annotations

import asyncio

from percale.lab.pods.answer_log import MOST_LINES, AnswerLog


async def test_lines_are_numbered_and_the_oldest_are_lost() -> None:
    log = AnswerLog()
    for number in range(MOST_LINES + 5):
        log.add("10.0.0.1:5", "10.0.0.2:80", "tcp", f"GET /{number} HTTP/1.1\r\nHost: x\r\n".encode())
    assert log.count == MOST_LINES + 5
    assert len(log.after(0)) == MOST_LINES
    assert log.after(log.count) == log.after(log.count + 3) == []
    (last,) = log.after(log.count - 1)
    assert last.endswith(f'Z 10.0.0.1:5 → 10.0.0.2:80/tcp "GET /{MOST_LINES + 4} HTTP/1.1"')


async def test_what_a_terminal_would_obey_is_not_shown() -> None:
    log = AnswerLog()
    log.add("a", "b", "udp", b"\x1b[2J\x00\xff" + b"x" * 1000)
    (line,) = log.after(0)
    assert line.partition('"')[2] == "?[2J?\ufffd" + "x" * 94 + '"'


async def test_whoever_follows_waits_for_the_next_line() -> None:
    log = AnswerLog()
    waiting = asyncio.create_task(log.wait_beyond(0, 10))
    await asyncio.sleep(0)
    assert not waiting.done()
    log.add("a", "b", "tcp", b"")
    await waiting
    await log.wait_beyond(1, 0.01)
