"""NetworkUnavailable=False, when the node is ready, and only where somebody reports conditions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from tests.silent import silent_problems
from tests.waiting import eventually

from percale.agent.informer import Informer
from percale.agent.network.node_condition import NodeCondition
from percale.errors import Conflict
from percale.model.condition import Condition
from percale.model.meta import ObjectKey, ObjectMeta
from percale.model.node import Node, NodeStatus
from percale.store.memory import MemoryStore

KUBELETS = Condition(type="Ready", status="False", reason="KubeletNotReady")
CLOUDS = Condition(type="NetworkUnavailable", status="True", reason="NoRouteCreated")
KEY = ObjectKey(None, "n1")


def node(*conditions: Condition, name: str = "n1") -> Node:
    return Node(metadata=ObjectMeta(name=name), status=NodeStatus(conditions=conditions))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def condition(store: MemoryStore) -> AsyncIterator[NodeCondition]:
    problems = silent_problems()
    informer = Informer(store, problems)
    made = NodeCondition("n1", store, informer.subscribe(Node), problems)
    tasks = [asyncio.create_task(each) for each in (informer.run(), made.run())]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def reported(store: MemoryStore) -> bool:
    found = await store.get(Node, KEY)
    assert found is not None
    return any(
        (each.type, each.status, each.reason) == ("NetworkUnavailable", "False", "FlannelIsUp")
        for each in found.status.conditions
    )


async def test_reported_once_ready(store: MemoryStore, condition: NodeCondition) -> None:
    await store.put(node(KUBELETS, CLOUDS))
    await asyncio.sleep(0.05)
    assert not await reported(store)
    condition.ready.set()
    await eventually(lambda: reported(store))
    found = await store.get(Node, KEY)
    assert found is not None
    assert [each.type for each in found.status.conditions] == ["Ready", "NetworkUnavailable"]
    assert found.status.conditions[0] == KUBELETS
    await store.put(node(KUBELETS, CLOUDS))  # the Node was created again
    await eventually(lambda: reported(store))


async def test_a_node_whose_conditions_nobody_reports_is_left_alone(
    store: MemoryStore, condition: NodeCondition
) -> None:
    before = await store.put(node())
    other = await store.put(node(KUBELETS, name="n2"))
    condition.ready.set()
    await asyncio.sleep(0.05)
    assert await store.get(Node, KEY) == before
    assert await store.get(Node, other.key) == other
    await store.put(node(KUBELETS))  # its kubelet starts
    await eventually(lambda: reported(store))


async def test_a_lost_race_is_tried_again(
    store: MemoryStore, condition: NodeCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Node] = []
    put = store.put

    async def losing(obj: Node, **options: str) -> Node:
        if not lost:
            lost.append(obj)
            await put(node(replace(KUBELETS, message="later")))
            raise Conflict("changed")
        return await put(obj, **options)  # type: ignore[arg-type]

    await store.put(node(KUBELETS))
    monkeypatch.setattr(store, "put", losing)
    condition.ready.set()
    await eventually(lambda: reported(store))
    found = await store.get(Node, KEY)
    assert found is not None
    assert found.status.conditions[0].message == "later"
