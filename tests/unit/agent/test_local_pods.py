"""Which addresses this node's pods have, as the agent tells its other parts."""

from __future__ import annotations

import asyncio
import io
from ipaddress import ip_address, ip_interface
from typing import Any

import msgspec

from percale.agent.events import Events
from percale.agent.logging import LineLog
from percale.agent.nft_table import NodeTable
from percale.agent.policy.controller import PolicyController
from percale.agent.problems import Problems
from percale.cni.records import Attachment
from percale.cni.requests import KubernetesPod
from percale.ipam.address_pool import Owner
from percale.kernel.nftables.fake_table import FakeKeeper
from percale.model.pod import Pod
from percale.render.network.pod_veth import PodWires
from percale.store.memory import MemoryStore

ADDRESS = ip_address("10.244.1.2")


def pod(name: str, **status: Any) -> Pod:
    meta = {"name": name, "namespace": "x"}
    spec = {"nodeName": "n1", "containers": [{"name": "main"}]}
    return msgspec.convert({"metadata": meta, "spec": spec, "status": status}, Pod)


def attachment(pod: Pod) -> Attachment:
    name = pod.metadata.name
    wires = PodWires(name, "eth0", "02:00:00:00:00:01", 1500, (ip_interface(f"{ADDRESS}/24"),))
    return Attachment(Owner(name, "eth0"), "network", "/run/netns/x", wires, KubernetesPod("x", name))


async def test_an_address_that_goes_from_one_pod_to_another_stays_the_nodes() -> None:
    """The old pod's object may say for a while that it has it."""
    store, problems = MemoryStore(), Problems(LineLog("text", io.StringIO()))
    table = NodeTable(FakeKeeper(), problems, Events("n1", store, problems))
    heard: list[set[bytes]] = []
    agent = PolicyController(
        "n1", store, table, problems=problems, on_local_pods=lambda: heard.append(set(agent.local_pods))
    )
    old, new = pod("old", phase="Running", podIP=str(ADDRESS)), pod("new")
    for each in (old, new):
        await store.put(each)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(part.run()) for part in (agent, table)]
        await agent.before_add(attachment(old))
        agent.after_del(attachment(old))
        await agent.before_add(attachment(new))
        assert agent.local_pods == {ADDRESS.packed}
        agent.after_del(attachment(new))
        await store.delete(Pod, old.key)
        await store.delete(Pod, new.key)
        while agent.local_pods:
            await asyncio.sleep(0)
        for task in running:
            task.cancel()
    assert heard == [{ADDRESS.packed}, set()]
