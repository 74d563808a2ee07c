from __future__ import annotations

import asyncio
import threading

import pytest

from percale.event_loop import WorkerThread, yield_every


async def test_other_tasks_run_after_each_few_items() -> None:
    turns: list[int] = []
    seen = 0

    async def other() -> None:
        while True:
            turns.append(seen)
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    async for item in yield_every(3, range(1, 8)):
        seen = item
    task.cancel()
    assert seen == 7
    assert turns == [3, 6]


async def test_a_worker_thread_runs_calls_in_order_and_hands_on_what_they_raise() -> None:
    thread, ran = WorkerThread("a-name"), list[str]()
    thread.submit(lambda: ran.append(threading.current_thread().name))
    assert await thread.run(lambda: [*ran]) == ["a-name_0"]
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    thread.submit(lambda: ran.append("last"))
    thread.close()
    assert ran[-1] == "last"
