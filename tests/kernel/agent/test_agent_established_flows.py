"""Established connections and policies that change: which flows are marked, with real packets through the static table."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import pytest_asyncio
from msgspec.structs import replace
from tests.kernel.conftest import Space
from tests.kernel.flows import SERVICE, VIP, VIP_PORT, A, B, Wire, World
from tests.waiting import eventually

from percale.agent.logging import LineLog
from percale.agent.metrics import Metrics
from percale.agent.policy.established_flows import FlowBlocker, FlowUnblocker
from percale.agent.problems import Problems
from percale.kernel.netlink.conntrack import EntryFilter
from percale.model.manifest.decode import decode_manifest
from percale.model.meta import ObjectKey
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Pod
from percale.policy.evaluator import Evaluator
from percale.render.policy.base_chains import CUT_MARK

BOTH = pytest.mark.parametrize("version", [4, 6])

PODS = "\n---\n".join(
    f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec: {{nodeName: n1, containers: [{{name: main, image: none}}]}}
status: {{phase: Running, podIPs: [{{ip: "{addresses[4]}"}}, {{ip: "{addresses[6]}"}}]}}"""
    for name, addresses in (("a", A), ("b", B))
)
CLOSED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {app: b}}}
"""
ONLY_A = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec:
  podSelector: {matchLabels: {app: b}}
  ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 8080}, {port: 8080, protocol: UDP}]}]
"""
NOT_OUT_OF_A = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: not-out-of-a}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress]}
"""


class Judge:
    """The agent's part in the node's namespace: an evaluator, and the flows judged by it."""

    def __init__(self, world: World, node: str = "n1") -> None:
        self.world = world
        self.log = io.StringIO()
        log = LineLog("text", self.log)
        self.evaluator = Evaluator(decode_manifest(PODS.encode(), "pods.yaml").objects)
        self.metrics = Metrics()
        self.problems = Problems(log)
        self.blocker = FlowBlocker(
            node, self.evaluator, world.conntrack, problems=self.problems, metrics=self.metrics, log=log
        )
        self.table = world.conntrack()

    async def policy(self, text: str, addresses: frozenset[bytes] | None = None) -> None:
        self.evaluator.put(decode_manifest(text.encode(), "policy.yaml").objects[0])
        await self.blocker.recheck(addresses)

    async def no_policy(self) -> None:
        self.evaluator.remove(NetworkPolicy, ObjectKey("default", "closed"))
        await self.blocker.recheck(None)

    def marked(self) -> int:
        return len(list(self.table.flows(EntryFilter(marked=CUT_MARK))))

    async def until_marked(self, count: int) -> None:
        await eventually(lambda: self.marked() == count)


@pytest.fixture
def flow_world(new_space: Callable[[], Space]) -> World:
    return World(new_space(), new_space(), new_space()).open()


@pytest_asyncio.fixture
async def judge(flow_world: World) -> AsyncIterator[Judge]:
    made = Judge(flow_world)
    running = asyncio.create_task(made.blocker.run())
    yield made
    running.cancel()
    made.blocker.close()
    made.table.close()


@contextmanager
def opened(make: Callable[[], Wire]) -> Iterator[Wire]:
    wire = make()
    try:
        yield wire
    finally:
        wire.close()


async def passes(wire: Wire, *, answers: bool = False) -> bool:
    return await asyncio.to_thread(partial(wire.passes, answers=answers))


async def stalls(wire: Wire, *, answers: bool = False) -> bool:
    return await asyncio.to_thread(partial(wire.stalls, answers=answers))


@BOTH
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_a_policy_cuts_what_it_forbids_and_gives_it_back(judge: Judge, version: int, protocol: str) -> None:
    with opened(partial(getattr(judge.world, protocol), version)) as wire:
        await judge.policy(CLOSED)
        await judge.until_marked(1)
        assert await stalls(wire)
        assert await stalls(wire, answers=True)
        await judge.policy(ONLY_A)
        await judge.until_marked(0)
        assert await passes(wire)
        assert await passes(wire, answers=True)
    assert "flows cut  count=1 pod=default/b by=np:default/closed" in judge.log.getvalue()
    text = judge.metrics.registry
    assert text.get_sample_value("percale_flows_cut_total") == 1
    assert text.get_sample_value("percale_flows_restored_total") == 1


@BOTH
async def test_a_connection_through_a_service_is_judged_by_its_ends(judge: Judge, version: int) -> None:
    """The client that masquerade hides, and the pod's port instead of the service's."""
    judge.world.nft(SERVICE)
    with opened(lambda: judge.world.tcp(version, via=(VIP[version], VIP_PORT))) as wire:
        await judge.policy(ONLY_A)
        await judge.policy(CLOSED)
        await judge.until_marked(1)
        assert await stalls(wire)
        await judge.policy(ONLY_A)
        await judge.until_marked(0)
        assert await passes(wire)


async def test_what_is_still_allowed_is_never_touched(judge: Judge) -> None:
    with opened(lambda: judge.world.tcp(4)) as wire:
        judge.world.a.run("ping", "-n", "-c1", B[4])
        await judge.policy(ONLY_A)
        await judge.until_marked(1)  # the ping: the policy allows ports only
        (flow,) = judge.table.flows(EntryFilter(marked=CUT_MARK))
        assert flow.original.protocol == 1
        assert await passes(wire)


async def test_only_the_flows_of_affected_pods_are_looked_at(judge: Judge) -> None:
    with opened(lambda: judge.world.tcp(4)):
        judge.world.b.run("ping", "-n", "-c1", "10.244.2.1")
        await judge.policy(CLOSED, frozenset({bytes([10, 244, 9, 9])}))
        await judge.blocker.wait_idle()
        assert judge.marked() == 0
        await judge.blocker.recheck(frozenset({bytes([10, 244, 1, 2])}))
        await judge.until_marked(1)


async def test_flows_of_other_nodes_pods_are_not_ours(flow_world: World) -> None:
    """Those that pass this node are judged where they begin and end."""
    judge = Judge(flow_world, node="elsewhere")
    running = asyncio.create_task(judge.blocker.run())
    with opened(lambda: flow_world.tcp(4)) as wire:
        await judge.policy(CLOSED, frozenset({bytes([10, 244, 2, 2])}))
        await judge.blocker.wait_idle()
        assert judge.marked() == 0
        assert await passes(wire)
    running.cancel()
    judge.blocker.close()
    judge.table.close()


async def test_what_the_other_ends_node_forbids_is_cut_there_and_not_here(judge: Judge) -> None:
    """Only there it is known when that changes: a mark of ours would stay."""
    (a, *_) = decode_manifest(PODS.encode(), "pods.yaml").objects
    assert isinstance(a, Pod)
    judge.evaluator.put(replace(a, spec=replace(a.spec, nodeName="n2")))
    with opened(lambda: judge.world.tcp(4)) as wire:
        await judge.policy(NOT_OUT_OF_A)
        await judge.blocker.wait_idle()
        assert judge.marked() == 0
        await judge.policy(CLOSED)
        await judge.until_marked(1)
        await judge.no_policy()
        await judge.until_marked(0)
        assert await passes(wire)


async def test_an_agent_that_comes_back_judges_what_changed_meanwhile(judge: Judge) -> None:
    with opened(lambda: judge.world.tcp(4)) as wire:
        judge.evaluator.put(decode_manifest(CLOSED.encode(), "policy.yaml").objects[0])
        await judge.blocker.recheck(None)
        await judge.until_marked(1)
        await judge.no_policy()
        await judge.until_marked(0)
        assert await passes(wire)


async def test_keep_gives_back_what_was_cut(judge: Judge) -> None:
    with opened(lambda: judge.world.tcp(4)) as wire:
        await judge.policy(CLOSED)
        await judge.until_marked(1)
        unblocker = FlowUnblocker(judge.world.conntrack, judge.problems)
        await unblocker.run()
        await unblocker.recheck(None)
        assert judge.marked() == 0
        assert await passes(wire)
        unblocker.close()


async def test_a_table_that_cannot_be_read_is_a_problem_and_tried_again(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the flows go on, and a problem is reported."""
    attempts: list[int] = []
    real = judge.blocker._table._conntrack.count

    def fails_once() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError(105, "No buffer space available")
        return real()

    monkeypatch.setattr(judge.blocker._table._conntrack, "count", fails_once)
    monkeypatch.setattr("percale.agent.workqueue.RETRY_INTERVAL", 0.05)
    with opened(lambda: judge.world.tcp(4)):
        await judge.policy(CLOSED)
        await judge.until_marked(1)
    assert "No buffer space available" in judge.log.getvalue()
    await eventually(lambda: not judge.problems.current)
