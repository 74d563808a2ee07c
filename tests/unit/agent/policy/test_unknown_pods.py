"""An ADD does not wait for a store that is away: what nobody has told about the pod is denied until it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from msgspec.structs import replace
from tests import builders
from tests.silent import silent_problems
from tests.waiting import eventually

from percale.agent.events import Events
from percale.agent.informer import Informer
from percale.agent.policy import controller, unknown_pods
from percale.agent.policy.controller import PolicyController
from percale.agent.problems import Problems
from percale.agent.table_sections import NodeTable
from percale.cni.records import Attachment
from percale.cni.requests import KubernetesPod
from percale.errors import StoreUnavailable
from percale.ipam.address_pool import Owner
from percale.kernel.nftables.fake_table import FakeNftTable
from percale.model.meta import Object, ObjectKey
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Pod
from percale.policy.evaluator import Evaluator
from percale.policy.pod_facts import unknown_facts
from percale.policy.rule_terms import Direction
from percale.policy.verdict import Flow
from percale.render.network.pod_veth import PodWires
from percale.store.last_state import SOURCE as LAST_STATE
from percale.store.memory import MemoryStore
from percale.store.protocol import Event, ReadProblem

ADDRESS = ip_address("10.244.1.2")
NEW = ObjectKey("x", "new")


class Away(MemoryStore):
    """Its watch goes on, so that a test decides what is told; it answers `get` only when `answers` is set."""

    def __init__(self, *before: Event) -> None:
        super().__init__()
        self.answers = False
        self.hangs = False
        self._before = before

    async def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        for event in self._before:
            yield event
        async for event in super().watch(*kinds):
            yield event

    async def get(self, kind: Any, key: ObjectKey) -> Any:
        if self.hangs:
            await asyncio.Event().wait()
        if not self.answers:
            raise StoreUnavailable("connection refused")
        return await super().get(kind, key)


def attachment(address: str = str(ADDRESS)) -> Attachment:
    wires = PodWires("new", "eth0", "02:00:00:00:00:01", 1500, (ip_interface(f"{address}/24"),))
    return Attachment(Owner("new", "eth0"), "network", "/run/netns/x", wires, KubernetesPod("x", "new"))


@asynccontextmanager
async def agent_of(
    store: MemoryStore, prepare: Callable[[PolicyController], None] = lambda agent: None
) -> AsyncIterator[tuple[PolicyController, Problems]]:
    problems = silent_problems()
    table = NodeTable(FakeNftTable(), problems, Events("n1", store, problems))
    informer = Informer(store, problems)
    agent = PolicyController("n1", informer, table, problems=problems)
    prepare(agent)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(part.run()) for part in (agent, table, informer)]
        await table.applied.wait()
        yield agent, problems
        for task in running:
            task.cancel()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "_PATIENCE", 0.05)
    monkeypatch.setattr(unknown_pods, "_FIRST_RETRY", 0.01)
    monkeypatch.setattr(unknown_pods, "_LONGEST_RETRY", 0.01)


def allowed(agent: PolicyController, direction: Direction = "ingress", other: str = "192.0.2.7") -> bool:
    """By the evaluator, from which the kernel's rules are made, and by the maps of its table."""
    evaluator = agent.evaluator
    here, there = evaluator.flow_end(ADDRESS.packed), evaluator.flow_end(ip_address(other).packed)
    source, destination = (here, there) if direction == "egress" else (there, here)
    verdict = evaluator.evaluate(Flow(source, destination, "TCP", 80))
    decision = verdict.egress if direction == "egress" else verdict.ingress
    mapped = {
        each.set for each in agent.snapshot().put if ADDRESS.packed in each.packed_keys and each.verdict is not None
    }
    assert decision.allowed or f"{direction}4" in mapped
    return decision.allowed


@pytest.mark.parametrize("by_cluster_policy", [False, True])
async def test_a_pod_that_nobody_knows_reaches_its_own_node_unless_a_cluster_policy_may_deny_it(
    by_cluster_policy: bool,
) -> None:
    store = Away()
    others = {"podSelector": {"matchLabels": {"app": "other"}}}
    subject = {"pods": {"namespaceSelector": {}, **others}}
    await store.put(builders.policy("for-others", namespace="x", **others))
    if by_cluster_policy:
        await store.put(builders.cluster_policy(subject=subject, egress=[{"action": "Deny", "to": [{"nodes": {}}]}]))
    await store.put(builders.node("n1", "192.0.2.1"))
    async with agent_of(store) as (agent, _):
        await agent.before_add(attachment())
        assert allowed(agent, "ingress", "192.0.2.1")
        assert allowed(agent, "egress", "192.0.2.1") is not by_cluster_policy


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_pod_that_nobody_knows_is_denied_until_it_is_told(hangs: bool) -> None:
    store = Away()
    store.hangs = hangs
    await store.put(builders.policy("for-others", namespace="x", podSelector={"matchLabels": {"app": "other"}}))
    async with agent_of(store) as (agent, problems):
        await agent.before_add(attachment())
        assert not allowed(agent, "ingress") and not allowed(agent, "egress")
        assert problems.current["unknown pods"].error.startswith("the labels of x/new are not known: ")
        await store.put(builders.pod("new", namespace="x", labels={"app": "mine"}))
        await eventually(lambda: allowed(agent, "ingress") and allowed(agent, "egress"))
        assert "unknown pods" not in problems.current


async def test_without_a_policy_that_could_select_it_nothing_is_denied() -> None:
    store = Away()
    await store.put(builders.policy("elsewhere", namespace="y"))
    async with agent_of(store) as (agent, _):
        await agent.before_add(attachment())
        assert allowed(agent, "ingress") and allowed(agent, "egress")
        policy = await store.put(builders.policy("here", namespace="x"))
        await eventually(lambda: not allowed(agent, "ingress") and not allowed(agent, "egress"))
        await store.delete(NetworkPolicy, policy.key)
        await eventually(lambda: allowed(agent, "ingress") and allowed(agent, "egress"))


async def test_a_pod_that_the_store_does_not_have_is_none_of_the_clusters() -> None:
    store = Away()
    await store.put(builders.policy("all", namespace="x"))
    async with agent_of(store) as (agent, problems):
        await agent.before_add(attachment())
        assert not allowed(agent)
        store.answers = True
        await eventually(lambda: allowed(agent))
        assert "unknown pods" not in problems.current


async def test_what_the_store_says_when_it_is_back_counts() -> None:
    store = Away()
    await store.put(builders.policy("closed", namespace="x", podSelector={"matchLabels": {"app": "closed"}}))
    async with agent_of(store) as (agent, _):
        await agent.before_add(attachment())
        store._objects.setdefault(Pod, {})[NEW] = builders.pod("new", namespace="x", labels={"app": "open"})  # untold
        store.answers = True
        await eventually(lambda: allowed(agent))


async def test_a_pod_that_goes_while_it_is_unknown_leaves_nothing() -> None:
    store = Away()
    await store.put(builders.policy("all", namespace="x"))
    async with agent_of(store) as (agent, problems):
        await agent.before_add(attachment())
        agent.after_del(attachment())
        assert "unknown pods" not in problems.current
        assert agent.evaluator.selector_index.pod(NEW) is None


async def test_it_is_not_taken_for_a_pod_of_the_same_name_that_is_gone() -> None:
    store = Away()
    await store.put(builders.policy("closed", namespace="x", podSelector={"matchLabels": {"app": "closed"}}))
    await store.put(builders.pod("new", namespace="x", labels={"app": "open"}))
    async with agent_of(store) as (agent, _):
        await agent.before_add(attachment("10.244.1.7"))
        await store.delete(Pod, NEW)
        await eventually(lambda: NEW in agent._deleted)
        await agent.before_add(attachment())
        agent.after_del(attachment("10.244.1.7"))
        assert not allowed(agent)


async def test_no_selector_of_a_peer_means_it() -> None:
    """`app NotIn (…)` would, if it had no labels."""
    evaluator = Evaluator([builders.policy("p", namespace="x", ingress=[{"from": [{"podSelector": {}}]}])])
    evaluator.put(builders.pod("peer", "10.244.1.9", namespace="x"))
    evaluator.put_facts(replace(unknown_facts(NEW), addresses=(ADDRESS.packed,), node="n2"))
    source, destination = evaluator.flow_end(ADDRESS.packed), evaluator.flow_end(ip_address("10.244.1.9").packed)
    assert not evaluator.evaluate(Flow(source, destination, "TCP", 80)).ingress.allowed


async def test_attached_pods_that_a_last_state_lacks_are_unknown() -> None:
    store = Away(ReadProblem(LAST_STATE, StoreUnavailable("away"), complete=True))
    await store.put(builders.policy("all", namespace="x"))
    async with agent_of(store, lambda agent: agent.attach(NEW, [ADDRESS])) as (agent, _):
        assert not allowed(agent)


async def test_attached_pods_that_are_no_objects_are_left_alone_otherwise() -> None:
    store = Away()
    await store.put(builders.policy("all", namespace="x"))
    async with agent_of(store, lambda agent: agent.attach(NEW, [ADDRESS])) as (agent, _):
        assert allowed(agent)
