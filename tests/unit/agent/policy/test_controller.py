"""Which addresses this node's pods have, as the agent tells its other parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from tests import builders
from tests.silent import silent_problems
from tests.waiting import eventually

from percale.agent.events import Events
from percale.agent.informer import Informer
from percale.agent.policy.controller import PolicyController
from percale.agent.table_sections import NodeTable
from percale.cni.records import Attachment
from percale.cni.requests import KubernetesPod
from percale.errors import BadManifest
from percale.ipam.address_pool import Owner
from percale.kernel.nftables.fake_table import FakeNftTable
from percale.model.addresses import IPAddress
from percale.model.meta import Object, ObjectKey
from percale.model.pod import Pod
from percale.render.network.pod_veth import PodWires
from percale.render.nft.table_state import diff
from percale.store.memory import MemoryStore
from percale.store.protocol import Event, ReadProblem

ADDRESS = ip_address("10.244.1.2")


def pod(name: str, **status: Any) -> Pod:
    return builders.pod(name, namespace="x", status=status)


def attachment(pod: Pod, address: IPAddress = ADDRESS, uid: str = "") -> Attachment:
    name = pod.metadata.name
    wires = PodWires(name, "eth0", "02:00:00:00:00:01", 1500, (ip_interface(f"{address}/24"),))
    return Attachment(Owner(name, "eth0"), "network", "/run/netns/x", wires, KubernetesPod("x", name, uid))


def agent_of(store: MemoryStore, heard: list[set[bytes]]) -> tuple[PolicyController, NodeTable, Informer]:
    problems = silent_problems()
    table = NodeTable(FakeNftTable(), problems, Events("n1", store, problems))
    informer = Informer(store, problems)
    agent = PolicyController(
        "n1", informer, table, problems=problems, on_local_pods=lambda: heard.append(set(agent.local_pods))
    )
    return agent, table, informer


async def test_an_address_that_goes_from_one_pod_to_another_stays_the_nodes() -> None:
    """The old pod's object may say for a while that it has it."""
    store = MemoryStore()
    heard: list[set[bytes]] = []
    agent, table, informer = agent_of(store, heard)
    old, new = pod("old", phase="Running", podIP=str(ADDRESS)), pod("new")
    for each in (old, new):
        await store.put(each)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(part.run()) for part in (agent, table, informer)]
        await agent.before_add(attachment(old))
        agent.after_del(attachment(old))
        await agent.before_add(attachment(new))
        assert agent.local_pods == {ADDRESS.packed}
        agent.after_del(attachment(new))
        await store.delete(Pod, old.key)
        await store.delete(Pod, new.key)
        await eventually(lambda: not agent.local_pods)
        for task in running:
            task.cancel()
    assert heard == [{ADDRESS.packed}, set()]


BAD = ReadProblem("bad.yaml", BadManifest("not YAML"))


class Unreadable(MemoryStore):
    """With a file that cannot be read."""

    async def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        yield BAD
        async for event in super().watch(*kinds):
            yield event

    def repair(self) -> None:
        self._watches.publish([ReadProblem(BAD.source, None)])


@pytest.mark.parametrize("held", [True, False])
async def test_the_first_rules_are_those_of_the_last_state(held: bool) -> None:
    """An unreadable file holds them back, for it may contain a policy that is in force; events are taken in meanwhile."""
    store, nft = Unreadable() if held else MemoryStore(), FakeNftTable()
    problems = silent_problems()
    table = NodeTable(nft, problems, Events("n1", store, problems))
    informer = Informer(store, problems)
    agent = PolicyController("n1", informer, table, problems=problems)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(part.run()) for part in (agent, table, informer)]
        for index in range(100):
            old = await store.put(builders.policy(f"p{index}", namespace="x"))
            await store.put(builders.pod("busy", "10.244.1.2", namespace="x", labels={"number": str(index)}))
            if index < 99:
                await store.delete(type(old), old.key)
        await eventually(lambda: [key for _, key in agent.evaluator.object_keys if key.name == "p99"])
        if isinstance(store, Unreadable):
            await asyncio.sleep(0.05)
            assert nft.state is None
            store.repair()
        await table.applied.wait()
        assert nft.state is not None and agent.snapshot().put_chains
        assert not diff(nft.state, agent.snapshot())
        for task in running:
            task.cancel()


async def test_a_pod_is_not_taken_for_the_last_one_of_its_name() -> None:
    """Whose deletion the watch has not told yet: the new one has other labels, or another uid than its mirror."""
    store = MemoryStore()
    agent, table, informer = agent_of(store, [])
    old, new = (
        builders.pod("set-0", namespace="x", labels={"app": label}, meta={"uid": label}) for label in ("old", "new")
    )

    def labels() -> dict[str, str]:
        found = agent.evaluator.selector_index.pod(old.key)
        assert found is not None
        return found.labels

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        others = [tasks.create_task(part.run()) for part in (agent, table)]
        watch = tasks.create_task(informer.run())
        await store.put(old)
        await eventually(lambda: agent.evaluator.selector_index.pod(old.key))
        watch.cancel()
        await agent.before_add(attachment(old, uid="static"))
        assert labels() == {"app": "old"}
        await store.put(new)
        await agent.before_add(attachment(new, uid="old"))
        assert labels() == {"app": "old"}
        await agent.before_add(attachment(new, uid="new"))
        assert labels() == {"app": "new"}
        for task in others:
            task.cancel()


async def test_a_pod_has_its_addresses_while_it_has_its_wires() -> None:
    """Whatever becomes of its object: deleted by force, and made again under the same name, whose wires come before these go."""
    store = MemoryStore()
    heard: list[set[bytes]] = []
    agent, table, informer = agent_of(store, heard)
    again = ip_address("10.244.1.3")
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(part.run()) for part in (agent, table, informer)]
        key = (await store.put(pod("set-0"))).key
        await agent.before_add(attachment(pod("set-0")))
        await store.delete(Pod, key)
        await store.put(pod("later", phase="Running", podIP="10.244.1.9"))
        await eventually(lambda: len(heard) >= 2)
        await store.put(pod("set-0"))
        await agent.before_add(attachment(pod("set-0"), again))
        agent.after_del(attachment(pod("set-0")))
        assert again.packed in agent.local_pods
        await store.delete(Pod, key)
        await store.delete(Pod, ObjectKey("x", "later"))
        await eventually(lambda: len(agent.local_pods) <= 1)
        agent.after_del(attachment(pod("set-0"), again))
        for task in running:
            task.cancel()
    later = ip_address("10.244.1.9").packed
    assert heard[:2] == [{ADDRESS.packed}, {ADDRESS.packed, later}]
    assert heard[-2:] == [{again.packed}, set()]


async def test_a_policy_that_is_too_large_is_a_problem_and_an_event_until_it_is_not() -> None:
    store = MemoryStore()
    problems = silent_problems()
    said: list[str] = []
    table = NodeTable(FakeNftTable(), problems, Events("n1", store, problems))
    informer = Informer(store, problems)
    agent = PolicyController(
        "n1", informer, table, problems=problems, warn=lambda who, reason, _: said.append(f"{who}: {reason}")
    )
    peers = [{"podSelector": {"matchLabels": {"a": f"v{number}"}}} for number in range(2000)]
    await store.put(pod("own", phase="Running", podIP=str(ADDRESS)))
    await store.put(builders.policy("p", namespace="x", ingress=[{"from": peers}]))
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(part.run()) for part in (agent, table, informer)]
        await eventually(lambda: "networkpolicy x/p" in problems.current)
        assert "its rules are left out, and its pods isolated" in problems.current["networkpolicy x/p"].error
        assert said == ["networkpolicy x/p: TooLarge"]
        await store.put(builders.policy("p", namespace="x", ingress=[{"from": peers[:10]}]))
        await eventually(lambda: not problems.current)
        for task in running:
            task.cancel()
