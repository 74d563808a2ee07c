"""The renderer's transactions lead from any state to any other; packets meet the evaluator's verdicts in the table."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, ip_address
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests import builders
from tests.builders import cluster_policy
from tests.unit.policy.oracle import Question
from tests.unit.policy.small_worlds import NODES, Change, changes, placings, puts, removals, worlds
from tests.unit.policy.test_evaluator import QUESTIONS, asked
from tests.unit.render.simulated import Packet, enters_node, passes

from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.networkpolicy import NetworkPolicy
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec
from percale.policy.evaluator import Evaluator, PolicyDelta
from percale.render.nft.objects import INPUT_CHAIN
from percale.render.nft.table_state import TableState, diff
from percale.render.policy.base_chains import OWN_NODE, SET_SPECS
from percale.render.policy.renderer import PolicyRenderer

NODE = next(iter(NODES))
BARE = TableState.bare(SET_SPECS, (OWN_NODE,))


def changed(evaluator: Evaluator, change: Change) -> PolicyDelta:
    return evaluator.put(change) if isinstance(change, Object) else evaluator.remove(*change)


def allowed_here(evaluator: Evaluator) -> dict[tuple[Question, bool], bool]:
    """The verdicts of this node's rules, by flow and whether it is to the node itself, not forwarded.

    What a node sends to its own pods never passes them.
    """
    found = {}
    for question in QUESTIONS:
        verdict = asked(evaluator, question)
        if verdict.ingress.why == "node":
            continue
        ends = ((verdict.egress, question.source), (verdict.ingress, question.destination))
        entering = evaluator.flow_end(ip_address(question.destination).packed).node == NODE
        found[question, entering] = all(
            decision.allowed
            for decision, address in ends
            if (pod := evaluator.flow_end(ip_address(address).packed).pod) is not None and pod.node == NODE
        )
    return found


def disagreements(evaluator: Evaluator, held: TableState) -> list[Question]:
    """Flows for which the table decides otherwise than the evaluator."""
    return [
        question
        for (question, entering), allowed in allowed_here(evaluator).items()
        if (enters_node if entering else passes)(held, packet_of(question)) != allowed
    ]


def packet_of(question: Question) -> Packet:
    source, destination = (ip_address(each).packed for each in (question.source, question.destination))
    return Packet(source, destination, question.protocol, question.port)


@given(st.lists(puts, min_size=10, max_size=25), st.lists(st.lists(changes, min_size=1, max_size=4), max_size=6))
def test_transactions_lead_from_any_state_to_any_other(opening: list[Object], batches: list[list[Change]]) -> None:
    evaluator = Evaluator()
    renderer = PolicyRenderer(evaluator, NODE)
    held = BARE
    steps: list[Sequence[Change]] = [opening, *batches]
    for batch in steps:
        held = held.apply(renderer.update([changed(evaluator, change) for change in batch]))
        assert not diff(held, renderer.snapshot())
        assert not disagreements(evaluator, held)
    fresh = PolicyRenderer(evaluator, NODE)
    policies = tuple((None, policy) for policy in evaluator.policies.values())
    fresh.update([PolicyDelta(policies=policies, selected=frozenset(evaluator.selector_index.pod_ids.values()))])
    assert not diff(held, fresh.snapshot())
    event("pods are selected" if any(renderer.selected_pods) else "no pod is selected")


@given(worlds(), st.lists(st.lists(st.one_of(changes, removals, placings), min_size=1, max_size=2), max_size=8))
def test_addresses_with_other_verdicts_are_affected(opening: list[Object], batches: list[list[Change]]) -> None:
    """Only their connections are rechecked. Pods are added when policies exist already, at free addresses."""
    evaluator = Evaluator()
    renderer = PolicyRenderer(evaluator, NODE)
    pods: list[Change] = [each for each in opening if isinstance(each, Pod)]
    renderer.update([changed(evaluator, each) for each in opening if not isinstance(each, Pod)])
    now = allowed_here(evaluator)
    for batch in (pods, *batches):
        renderer.update([changed(evaluator, change) for change in batch])
        before, now = now, allowed_here(evaluator)
        for key in before.keys() & now.keys():
            ends = {ip_address(each).packed for each in (key[0].source, key[0].destination)}
            assert before[key] == now[key] or ends & renderer.affected_addresses, key
        event("a verdict changes" if before != now else "no verdict changes")


def pod(name: str, address: str, node: str = NODE) -> Pod:
    return builders.pod(name, address, namespace="x", node=node, labels={"app": name})


def denying(name: str, peer: dict[str, Any]) -> ClusterNetworkPolicy:
    """The pod of this name may not speak to the peer."""
    subject = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": name}}}}
    return cluster_policy(name, subject=subject, egress=[{"action": "Deny", "to": [peer]}])


def node(**labels: str) -> Node:
    return builders.node("n2", "192.168.1.2", labels=labels)


def test_nodes_and_names_of_a_rule_affect_the_pods_that_it_applies_to() -> None:
    evaluator = Evaluator()
    renderer = PolicyRenderer(evaluator, NODE)

    def concerned(touched: PolicyDelta) -> set[str]:
        renderer.update([touched])
        return {str(ip_address(each)) for each in renderer.affected_addresses}

    for each in (
        pod("a", "10.0.1.1"),
        pod("b", "10.0.1.2"),
        pod("c", "10.0.2.1"),
        denying("a", {"nodes": {"matchLabels": {"disk": "ssd"}}}),
        denying("b", {"domainNames": ["example.org"]}),
        denying("c", {"networks": ["10.0.0.0/8"]}),
        node(),
    ):
        concerned(evaluator.put(each))
    assert concerned(evaluator.put(node(disk="ssd"))) == {"10.0.1.1"}
    assert concerned(evaluator.put(node(disk="ssd", rack="1"))) == set()
    assert concerned(evaluator.set_resolved_names({"example.org": frozenset({ip_address("203.0.113.7").packed})})) == {
        "10.0.1.2"
    }
    assert concerned(evaluator.remove(Node, ObjectKey(None, "n2"))) == {"10.0.1.1"}


@pytest.mark.parametrize("address", ["192.168.1.2", "10.0.8.1"], ids=["by its object", "by its lease"])
def test_a_pod_that_has_a_nodes_address_is_no_node_in_the_table_either(address: str) -> None:
    """Another IPAM may have given it away."""
    evaluator = Evaluator()
    renderer = PolicyRenderer(evaluator, NODE)
    held = BARE
    lease = SubnetLease(
        metadata=ObjectMeta(name="l"), spec=SubnetLeaseSpec(node="n2", subnet=IPv4Network("10.0.8.0/24"))
    )
    reaching = Packet(ip_address("10.0.1.1").packed, ip_address(address).packed, "TCP", 80)

    def passing(touched: PolicyDelta) -> bool:
        nonlocal held
        held = held.apply(renderer.update([touched]))
        assert not disagreements(evaluator, held)
        return passes(held, reaching)

    for each in (pod("a", "10.0.1.1"), denying("a", {"nodes": {}}), node()):
        passing(evaluator.put(each))
    assert not passing(evaluator.put(lease))
    assert passing(evaluator.put(pod("b", address, "n2")))
    assert reaching.source in renderer.affected_addresses
    assert not passing(evaluator.remove(Pod, ObjectKey("x", "b")))
    assert reaching.source in renderer.affected_addresses


def test_the_input_hook_is_there_while_a_pod_may_not_reach_its_own_node() -> None:
    """What costs every packet to the node itself; rules that no node is a peer of, and NetworkPolicies, need none."""
    evaluator = Evaluator()
    renderer = PolicyRenderer(evaluator, NODE)
    held = BARE

    def hooked(touched: PolicyDelta) -> bool:
        nonlocal held
        held = held.apply(renderer.update([touched]))
        assert not diff(held, renderer.snapshot())
        return INPUT_CHAIN in held.chains

    assert not hooked(evaluator.put(pod("a", "10.0.1.1")))
    assert not hooked(evaluator.put(builders.policy(namespace="x", podSelector={}, policyTypes=["Egress"])))
    assert not hooked(evaluator.put(denying("a", {"namespaces": {}})))
    assert not hooked(evaluator.put(denying("b", {"nodes": {}})))
    assert hooked(evaluator.put(denying("a", {"nodes": {}})))
    baseline = denying("a", {"nodes": {}})
    isolated = replace(baseline, spec=replace(baseline.spec, tier="Baseline"))
    assert not hooked(evaluator.put(isolated))
    assert hooked(evaluator.remove(NetworkPolicy, ObjectKey("x", "policy")))
    assert not hooked(evaluator.remove(Pod, ObjectKey("x", "a")))


@given(st.lists(changes, max_size=12))
def test_a_change_that_changes_nothing_edits_nothing(steps: list[Change]) -> None:
    evaluator = Evaluator()
    renderer = PolicyRenderer(evaluator, NODE)
    renderer.update([changed(evaluator, change) for change in steps])
    again = [change for change in steps[-1:] if isinstance(change, Object)]
    assert not renderer.update([changed(evaluator, change) for change in again])
