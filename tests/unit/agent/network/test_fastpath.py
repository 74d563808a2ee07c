"""The fast path while devices come and go: a table that the kernel refuses because one went is not the end of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from io import StringIO
from ipaddress import ip_address

from tests.waiting import eventually

from percale.agent.logging import LineLog
from percale.agent.network.fastpath import Fastpath
from percale.kernel.nftables.text_table import TextTable
from percale.render.network.fastpath import FastpathConfig, FastpathPod


class Table(TextTable):
    """Refuses what names the device `gone`."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.asked = 0

    def on_foreign_change(self, callback: Callable[[], None]) -> None:
        pass

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def load(self, body: str) -> None:
        self.asked += 1
        if "gone" in body:
            raise OSError("Interface does not exist")
        self.loaded.append(body)


def config(*devices: str) -> FastpathConfig:
    pods = (FastpathPod(device, (ip_address(f"10.244.1.{number}"),)) for number, device in enumerate(devices, 2))
    return FastpathConfig(tuple(pods), (), 1450)


async def test_a_device_that_goes_while_the_table_is_loaded_is_left_out() -> None:
    table, said, worlds = Table(), StringIO(), [config("pcl1", "gone"), config("pcl1")]
    fastpath = Fastpath(table, log=LineLog(stream=said), enabled=True)
    fastpath.request_sync()
    running = asyncio.create_task(fastpath.run(lambda: worlds.pop(0) if len(worlds) > 1 else worlds[0]))
    await eventually(lambda: table.loaded)
    assert "pcl1" in table.loaded[0]
    assert (table.asked, said.getvalue()) == (2, "")
    running.cancel()


async def test_a_kernel_that_refuses_the_table_is_told_once() -> None:
    table, said = Table(), StringIO()
    fastpath = Fastpath(table, log=LineLog(stream=said), enabled=True)
    fastpath.request_sync()
    await fastpath.run(lambda: config("gone"))
    assert table.asked == 1
    (line,) = said.getvalue().splitlines()
    assert line.endswith('warn  no shortcut for established flows  error="Interface does not exist"')
