"""Which addresses this node's pods have, as the agent tells its other parts."""

from __future__ import annotations

import asyncio
import io
from ipaddress import ip_address
from typing import Any

import msgspec

from percale.agent.events import Events
from percale.agent.logging import LineLog
from percale.agent.nft_table import NodeTable
from percale.agent.policy.controller import Enforcement
from percale.agent.problems import Problems
from percale.kernel.nftables.fake_table import FakeKeeper
from percale.model.pod import Pod
from percale.store.memory import MemoryStore

ADDRESS = ip_address("10.244.1.2")


def pod(name: str, **status: Any) -> Pod:
    meta = {"name": name, "namespace": "x"}
    spec = {"nodeName": "n1", "containers": [{"name": "main"}]}
    return msgspec.convert({"metadata": meta, "spec": spec, "status": status}, Pod)


async def test_an_address_that_goes_from_one_pod_to_another_stays_the_nodes() -> None:
    """The old pod's object may say for a while that it has it."""
    store, problems = MemoryStore(), Problems(LineLog("text", io.StringIO()))
    table = NodeTable(FakeKeeper(), problems, Events("n1", store, problems))
    heard: list[set[bytes]] = []
    agent = Enforcement(
        "n1", store, table, problems=problems, on_local_pods=lambda: heard.append(set(agent.local_pods))
    )
    old, new = pod("old", phase="Running", podIP=str(ADDRESS)), pod("new")
    for each in (old, new):
        await store.put(each)
    async with asyncio.timeout(30), asyncio.TaskGroup() as duties:
        running = [duties.create_task(part.run()) for part in (agent, table)]
        await agent.admit(old.key, [ADDRESS])
        agent.dismiss(old.key)
        await agent.admit(new.key, [ADDRESS])
        assert agent.local_pods == {ADDRESS.packed}
        agent.dismiss(new.key)
        await store.delete(Pod, old.key)
        await store.delete(Pod, new.key)
        while agent.local_pods:
            await asyncio.sleep(0)
        for task in running:
            task.cancel()
    assert heard == [{ADDRESS.packed}, set()]
