"""Policies: from decoded objects to the kernel, one change, the agent's memory, and the cost per packet.

The cluster is `policy_world.py`'s, on a node with 100 of the 10,000 pods. Theirs is what a straightforward implementation
loads by `nft -f`: a chain for each local pod and each policy that selects it, with a rule for each peer's address and port.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from msgspec.structs import replace

from bench import agents
from bench.node_table import ScriptedStore, TableBench
from bench.policy_paths import paths
from bench.policy_world import node_name, pod, policy, policy_world
from bench.rows import Row, at_most, in_turn, ratio, run, seconds
from percale.agent.informer import Informer
from percale.agent.policy.controller import PolicyController
from percale.kernel.netns import NetnsThread, anonymous_namespace
from percale.model.meta import Object
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Pod
from percale.policy.compiled_policy import CompiledPolicy, CompiledRule
from percale.policy.evaluator import Evaluator
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import Block, PodSelectorTerm, PortName, PortSpan
from percale.store.protocol import Upserted

PODS = 10_000
POLICIES = 1_000
NODE = 3
THEIR_SHARE = 10
"""Theirs is loaded for one in this many of the node's pods, and scaled: it takes too long for all."""
ROUNDS = 5
CHANGES = 31


def measure() -> Iterator[Row]:
    """The rows about kernel state, memory and packets."""
    objects = policy_world(PODS, POLICIES)
    world = f"{POLICIES:,} policies, {PODS:,} pods"
    found: list[_Samples] = []

    def ours() -> float:
        found.append(asyncio.run(_ours(objects)))
        return found[-1].cold

    in_turn(1, ours)  # the first batch pays for the kernel's first allocations
    found.clear()
    mine, other = in_turn(ROUNDS, ours, partial(_theirs, objects))
    yield at_most(f"{world}: objects to kernel, cold", "s", mine, 0.5)
    yield ratio("the same, against a chain per pod × policy by nft -f", "s", mine, other, 0.1, most=True)
    for what in ("a pod added", "a label changed", "a policy changed"):
        samples = [sample for each in found for sample in each.changes[what]]
        yield at_most(f"  {what}, event to commit", "ms", samples, 5)
    yield from _memory(objects)
    yield from paths()


@dataclass(slots=True)
class _Samples:
    cold: float
    changes: dict[str, list[float]] = field(default_factory=dict)


async def _ours(objects: Sequence[Object]) -> _Samples:
    """From cold, then changes one by one."""
    bench, store = TableBench(), ScriptedStore(objects)
    informer = Informer(store, bench.problems)
    controller = PolicyController(node_name(NODE), informer, bench.table, problems=bench.problems)
    async with bench.running(informer.run, controller.run) as cold:
        found = _Samples(cold)
        for what, changed in _changes(objects):
            found.changes.setdefault(what, []).append(await bench.change(store, Upserted(changed)))
    return found


def _changes(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Changes of pods on this node and others, and of policies in the namespaces of this node's pods."""
    rng = random.Random(2)
    pods = [obj for obj in objects if isinstance(obj, Pod)]
    local = [obj for obj in pods if obj.spec.nodeName == node_name(NODE)]
    namespaces = {obj.metadata.namespace for obj in local}
    policies = [obj for obj in objects if isinstance(obj, NetworkPolicy) and obj.metadata.namespace in namespaces]
    for number in range(CHANGES):
        node = NODE if number % 2 else NODE + 1
        yield "a pod added", pod(PODS + number, number % 100, node, 120 + number)
        known = (local if number % 2 else pods)[number * 3]
        labels = {**known.metadata.labels, "app": f"app-{number % 40:02d}", "version": "v9"}
        yield "a label changed", replace(known, metadata=replace(known.metadata, labels=labels))
        old = policies[number * len(policies) // CHANGES]
        spec = policy(int(old.metadata.name.rpartition("-")[2]), 0, 100, rng).spec
        yield "a policy changed", replace(old, spec=spec)


# The comparison


def _theirs(objects: Sequence[Object]) -> float:
    """Seconds to format and load the ruleset; evaluating the cluster is not timed."""
    evaluator = Evaluator(objects)
    local = [each for each in evaluator.selector_index.pods if each is not None and each.node == node_name(NODE)]
    some = local[::THEIR_SHARE]
    for each in evaluator.policies.values():
        for term in each.terms:
            evaluator.selector_index.watch(term)
    namespace = anonymous_namespace()
    thread = NetnsThread(namespace)
    try:
        load = partial(run, "nft", "-f", "-")
        took = seconds(lambda: thread.run(lambda: load(stdin="".join(_ruleset(evaluator, some)))))
    finally:
        thread.close()
    return took * len(local) / len(some)


def _ruleset(evaluator: Evaluator, pods: Sequence[PodFacts]) -> Iterator[str]:
    """A jump for each pod and direction, a chain for each policy that selects it."""
    chains: list[str] = []
    yield "table ip naive {\n"
    for number, each in enumerate(pods):
        selecting = evaluator.class_of(evaluator.selector_index.pod_ids[each.key]).policies
        for position, selected in enumerate(selecting):
            for direction in selected.isolates:
                name = f"pod{number}-policy{position}-{direction}"
                chains.append(f"{direction}-pod{number} jump {name}")
                yield f" chain {name} {{\n"
                yield from _rules(evaluator, each, selected, direction == "egress")
                yield " }\n"
        for direction in ("egress", "ingress"):
            jumps = [line.partition(" ")[2] for line in chains if line.startswith(f"{direction}-pod{number} ")]
            if jumps:
                body = "\n".join(f"  {jump}" for jump in jumps)
                yield f" chain {direction}-pod{number} {{\n{body}\n  meta mark & 1 == 1 return\n  drop\n }}\n"
    yield " chain forward {\n  type filter hook forward priority 0;\n  ct state established,related accept\n"
    for number, each in enumerate(pods):
        for direction, operand in (("egress", "saddr"), ("ingress", "daddr")):
            if any(line.startswith(f"{direction}-pod{number} ") for line in chains):
                yield f"  ip {operand} {IPv4Address(each.addresses[0])} jump {direction}-pod{number}\n"
    yield " }\n}\n"


def _rules(evaluator: Evaluator, subject: PodFacts, selected: CompiledPolicy, egress: bool) -> Iterator[str]:
    side = "daddr" if egress else "saddr"
    for rule in selected.rules("egress" if egress else "ingress"):
        for peer, facts in _peers(evaluator, rule):
            source = f"ip {side} {peer} " if peer else ""
            for port in _ports(rule, facts if egress else subject):
                yield f"  {source}{port}meta mark set 1 return\n"


def _peers(evaluator: Evaluator, rule: CompiledRule) -> Iterator[tuple[str, PodFacts | None]]:
    if rule.peers is None:
        yield "", None
    for peer in rule.peers or ():
        if isinstance(peer, Block):
            yield peer.cidr, None
        elif isinstance(peer, PodSelectorTerm):
            for each in evaluator.selector_index.members(peer):
                yield str(IPv4Address(each.addresses[0])), each


def _ports(rule: CompiledRule, target: PodFacts | None) -> Iterator[str]:
    if rule.ports is None:
        yield ""
    for port in rule.ports or ():
        if isinstance(port, PortSpan):
            last = f"-{port.last}" if port.last != port.first else ""
            yield f"{port.protocol.lower()} dport {port.first}{last} "
        elif isinstance(port, PortName) and target is not None:
            numbers = (each for each in target.ports if each.name == port.name and each.protocol == port.protocol)
            yield from (f"{each.protocol.lower()} dport {each.number} " for each in numbers)


# The agent's memory


def _memory(objects: Sequence[Object]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as temporary, agents.interface(f"172.16.0.{2 + NODE}/16"):
        directory = Path(temporary)
        agents.fill(directory / "store", objects)
        with agents.running(directory, node_name(NODE), {"Network": "10.64.0.0/10", "SubnetLen": 24}) as agent:
            yield at_most("  agent RSS in that world", "MiB", [agent.mebibytes("VmRSS")], 100)
