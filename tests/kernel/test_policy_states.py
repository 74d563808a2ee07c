"""From any named state of policies to any other while flows go on: what both allow loses nothing, what is forbidden is cut.

Two nodes of `policy_wires.py`, with an agent's own parts on each: a store that both watch, the table, and the flows judged again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise, permutations
from pathlib import Path

import pytest
import yaml
from tests.kernel.policy_wires import NODE_OF, WiredNode, Wires, asked
from tests.kernel.streams import FlowOf, Streams
from tests.silent import silent_log
from tests.unit.policy.oracle import Question
from tests.unit.policy.small_worlds import ELSEWHERE, NODES

from percale.agent.events import Events
from percale.agent.informer import Informer
from percale.agent.metrics import Metrics
from percale.agent.policy.controller import PolicyController
from percale.agent.policy.established_flows import FlowBlocker
from percale.agent.problems import Problems
from percale.agent.table_sections import NodeTable
from percale.kernel.netlink.conntrack import Conntrack
from percale.kernel.netns import NetnsThread
from percale.kernel.nftables.table import KernelNftTable
from percale.model.manifest.decode import decode_manifest
from percale.model.meta import Object
from percale.policy.evaluator import Evaluator
from percale.store.memory import MemoryStore

PODS = {"a": ("10.0.1.1",), "b": ("10.0.1.2", "fd00::1:1"), "c": ("10.0.2.1",), "d": ("10.0.2.2", "fd00::2:1")}
PORTS = (5080, 5081)
ENDS = [*NODE_OF, *ELSEWHERE, *NODES["n1"]]
FLOWS = [
    FlowOf(source, destination, port)
    for source in ENDS
    for destination in ENDS
    if source != destination and (":" in source) == (":" in destination)
    for port in PORTS
]

EVERYBODY: dict[str, object] = {"podSelector": {}}


def only(app: str) -> dict[str, object]:
    return {"podSelector": {"matchLabels": {"app": app}}}


def np(name: str, **spec: object) -> dict[str, object]:
    meta = {"name": name, "namespace": "x"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


def cnp(name: str, tier: str, app: str, **rules: object) -> dict[str, object]:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": 1, "subject": {"pods": {"namespaceSelector": {}, **only(app)}}, **rules},
    }


STATES: dict[str, list[dict[str, object]]] = {
    "no policy": [],
    "default deny": [np("deny", **EVERYBODY, policyTypes=["Ingress", "Egress"])],
    "one client": [np("client", **only("c"), ingress=[{"from": [only("a"), only("d")]}])],
    "by port": [np("port", **EVERYBODY, ingress=[{"ports": [{"port": PORTS[0], "protocol": "UDP"}]}])],
    "egress only": [
        np("egress", **only("a"), policyTypes=["Egress"], egress=[{"to": [only("c")]}]),
        np("block", **only("d"), policyTypes=["Egress"], egress=[{"to": [{"ipBlock": {"cidr": "fd00::/112"}}]}]),
    ],
    "outside only": [np("outside", **EVERYBODY, ingress=[{"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}])],
    "admin deny": [
        np("other-port", **only("d"), ingress=[{"ports": [{"port": PORTS[1], "protocol": "UDP"}]}]),
        cnp(
            "quarantine",
            "Admin",
            "b",
            ingress=[{"name": "none", "action": "Deny", "from": [{"namespaces": {}}]}],
            egress=[{"name": "none", "action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}],
        ),
    ],
}


def objects(documents: list[dict[str, object]]) -> list[Object]:
    return list(decode_manifest(yaml.safe_dump_all(documents).encode(), "test.yaml").objects)


def cluster_objects() -> list[Object]:
    pods: list[dict[str, object]] = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "x", "labels": {"app": name}},
            "spec": {"nodeName": NODE_OF[addresses[0]], "containers": [{"name": "main", "image": "none"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": each} for each in addresses]},
        }
        for name, addresses in PODS.items()
    ]
    nodes: list[dict[str, object]] = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]},
        }
        for name, addresses in NODES.items()
    ]
    return objects([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}, *nodes, *pods])


def every_way(names: list[str]) -> Iterator[str]:
    """A walk that leads once from each state to each other one, and begins and ends with the first."""
    left = {name: [other for other in reversed(names) if other != name] for name in names}
    stack, walk = [names[0]], []
    while stack:
        if ways := left[stack[-1]]:
            stack.append(ways.pop())
        else:
            walk.append(stack.pop())
    return reversed(walk)


def test_the_walk_leads_from_each_to_each() -> None:
    walk = list(every_way(list(STATES)))
    assert sorted(pairwise(walk)) == sorted(permutations(STATES, 2))


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Wires]:
    made = Wires(tmp_path)
    yield made
    made.down()


class Agent:
    """The parts of an agent that policies are made of, in a node's namespace."""

    def __init__(self, node: WiredNode, store: MemoryStore) -> None:
        log = silent_log()
        problems = Problems(log)
        nft_table = KernelNftTable(NetnsThread(node.space.descriptor))
        self.table = NodeTable(nft_table, problems, Events(node.name, store, problems))
        self.informer = Informer(store, problems)
        self.controller = PolicyController(
            node.name, self.informer, self.table, problems=problems, recheck=self._recheck
        )
        evaluator = self.controller.evaluator

        def conntrack() -> Conntrack:
            place = NetnsThread(node.space.descriptor)
            try:
                return Conntrack(place)
            finally:
                place.close()

        self.blocker = FlowBlocker(node.name, evaluator, conntrack, problems=problems, metrics=Metrics(), log=log)

    async def _recheck(self, addresses: frozenset[bytes]) -> None:
        await self.blocker.recheck(addresses)

    async def run(self) -> None:
        try:
            await asyncio.gather(self.informer.run(), self.controller.run(), self.table.run(), self.blocker.run())
        finally:
            self.blocker.close()


@asynccontextmanager
async def agents(wires: Wires, store: MemoryStore) -> AsyncIterator[None]:
    """One on each node, as long as this lasts."""
    async with asyncio.TaskGroup() as group:
        made = [Agent(node, store) for node in wires.nodes.values()]
        running = [group.create_task(agent.run()) for agent in made]
        for agent in made:
            await agent.table.applied.wait()
        yield
        for task in running:
            task.cancel()


def allowed(state: list[Object]) -> set[FlowOf]:
    evaluator = Evaluator([*cluster_objects(), *state])
    return {
        flow for flow in FLOWS if asked(evaluator, Question(flow.source, flow.destination, "UDP", flow.port)).allowed
    }


def test_from_any_state_to_any_other_while_flows_go_on(wires: Wires) -> None:
    """Object by object, for two nodes never change at the same moment."""
    namespaces = {address: space.path for address, space in wires.pods.items()}
    namespaces |= dict.fromkeys(ELSEWHERE, wires.outside.path) | dict.fromkeys(
        NODES["n1"], wires.nodes["n1"].space.path
    )
    streams = Streams(FLOWS, namespaces)
    states = {name: objects(documents) for name, documents in STATES.items()}
    assert len({frozenset(allowed(state)) for state in states.values()}) == len(STATES)
    store = MemoryStore()

    async def step(there: list[Object], way: str, *, put: Object | None = None, delete: Object | None = None) -> None:
        before, since = allowed(there), streams.rounds
        if put is not None:
            there.append(await store.put(put))
        if delete is not None:
            await store.delete(type(delete), delete.key)
            there[:] = [obj for obj in there if obj.key != delete.key]
        await asyncio.to_thread(check, since, before, allowed(there), way)

    async def walk() -> None:
        for obj in cluster_objects():
            await store.put(obj)
        async with agents(wires, store):
            there: list[Object] = []
            await asyncio.to_thread(streams.until_passing, allowed(there))
            for old, new in pairwise(every_way(list(STATES))):
                for obj in states[new]:
                    await step(there, f"from {old} to {new}", put=obj)
                for obj in states[old]:
                    await step(there, f"from {old} to {new}", delete=obj)

    def check(since: int, before: set[FlowOf], after: set[FlowOf], way: str) -> None:
        streams.until_passing(after)
        until = streams.rounds
        assert not streams.lost(since, until, before & after), f"allowed all the way {way}"
        assert not streams.arrived(since, until, set(FLOWS) - before - after), f"never allowed {way}"

    with streams.going():
        wires.runner.run(walk())
