"""What one policy may cost: it is rendered in time that grows with it, and what would take too long is left out, closed."""

from __future__ import annotations

import gc
import time
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests import builders
from tests.unit.render.simulated import Packet, passes

from percale.model.addresses import parse_network
from percale.model.meta import ObjectKey
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Pod
from percale.policy import cost, rule_quota
from percale.policy.evaluator import Evaluator, PolicyClass
from percale.policy.pod_facts import MAX_NAMED_PORTS
from percale.policy.rule_terms import Block
from percale.policy.verdict import Flow
from percale.render.nft.objects import Transaction
from percale.render.nft.table_state import TableState
from percale.render.policy.base_chains import SET_SPECS
from percale.render.policy.class_chains import united
from percale.render.policy.renderer import PolicyRenderer

NODE, POD, PEER = "n1", "10.1.0.1", "10.2.0.1"


def rendered(policy: NetworkPolicy, pods: int = 0) -> tuple[Evaluator, PolicyRenderer, Transaction]:
    """On a node with one pod of the policy's; the others are of another namespace and node."""
    evaluator = Evaluator([builders.pod("own", POD, namespace="x", node=NODE)])
    evaluator.put(
        builders.pod(
            "peer", PEER, namespace="x", node="n2", labels={"a": "v1"}, ports=[{"name": "p1", "containerPort": 80}]
        )
    )
    for number in range(pods):
        address = str(ip_address("10.3.0.0") + number)
        evaluator.put(builders.pod(f"p{number}", address, namespace="y", node="n2"))
    renderer = PolicyRenderer(evaluator, NODE)
    return evaluator, renderer, renderer.update([evaluator.put(policy)])


def policy(**rule: Any) -> NetworkPolicy:
    return builders.policy("p", namespace="x", policyTypes=["Egress"], egress=[rule])


def one_of(number: int) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"a": f"v{number}"}}}


def everywhere_but(number: int) -> dict[str, Any]:
    expressions = [{"key": "a", "operator": "NotIn", "values": [f"v{number}"]}]
    return {"namespaceSelector": {}, "podSelector": {"matchExpressions": expressions}}


def test_peers_and_named_ports_do_not_multiply() -> None:
    peers, ports = [one_of(number) for number in range(300)], [{"port": f"p{number}"} for number in range(300)]
    evaluator, _, transaction = rendered(policy(to=peers, ports=ports))
    assert sum(len(chain.rules) for chain in transaction.put_chains) < 1000
    held = TableState.bare(SET_SPECS).apply(transaction)
    source, target = ip_address(POD).packed, ip_address(PEER).packed
    assert [passes(held, Packet(source, target, "TCP", port)) for port in (80, 81)] == [True, False]
    assert not evaluator.too_large


@pytest.mark.parametrize(
    "rule",
    [
        {"to": [one_of(number) for number in range(2000)]},
        {"to": [everywhere_but(number) for number in range(600)]},
        {"to": [{**everywhere_but(0), "namespaceSelector": {"matchExpressions": [
            {"key": "b", "operator": "NotIn", "values": [f"v{number}" for number in range(9000)]}]}}]},
        {"ports": [{"port": f"p{number}"} for number in range(100_001)]},
    ],
    ids=["selectors", "selectors of all namespaces", "values of a selector", "ports"],
)  # fmt: skip
def test_a_policy_that_costs_too_much_isolates_and_allows_nothing(rule: dict[str, Any]) -> None:
    evaluator, renderer, transaction = rendered(policy(**rule), pods=1000)
    assert [str(each) for each in evaluator.too_large] == ["np:x/p"]
    held = TableState.bare(SET_SPECS).apply(transaction)
    assert not passes(held, Packet(ip_address(POD).packed, ip_address(PEER).packed, "TCP", 80))
    assert sum(len(chain.rules) for chain in transaction.put_chains) == 1
    renderer.update([evaluator.put(policy(to=[one_of(1)]))])
    assert not evaluator.too_large


def test_many_policies_of_a_namespace_cost_no_more_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most expensive ones are left out, closed, until the others leave room; other namespaces have a limit of their own."""
    monkeypatch.setattr(cost, "MAX_COST", 10_000)
    monkeypatch.setattr(cost, "MAX_NAMESPACE_COST", 40_000)
    evaluator, renderer, _ = rendered(policy(to=[one_of(1)]))
    bombs = {
        f"b{number}": builders.policy(
            f"b{number}",
            namespace="x",
            podSelector={},
            policyTypes=["Egress"],
            egress=[{"to": [one_of(1000 * number + each) for each in range(14 + number // 4)]}],
        )
        for number in range(8)
    }
    held = TableState.bare(SET_SPECS).apply(renderer.snapshot())
    for bomb in bombs.values():
        held = held.apply(renderer.update([evaluator.put(bomb)]))
    left_out = {each.name for each in evaluator.too_large}
    assert left_out == {f"b{number}" for number in range(5, 8)}
    assert sum(len(chain.rules) for chain in renderer.snapshot().put_chains) < 5 * 20
    source, target = ip_address(POD).packed, ip_address(PEER).packed
    assert passes(held, Packet(source, target, "TCP", 80)), "the first policy's rule is in force"
    elsewhere = builders.policy("p", namespace="y", egress=[{"to": [one_of(each) for each in range(14)]}])
    held = held.apply(renderer.update([evaluator.put(elsewhere)]))
    for number in range(2):
        gone = bombs[f"b{number}"]
        held = held.apply(renderer.update([evaluator.remove(NetworkPolicy, gone.key)]))
    assert {each.name for each in evaluator.too_large} == {f"b{number}" for number in range(7, 8)}
    assert passes(held, Packet(source, target, "TCP", 80))
    assert held == TableState.bare(SET_SPECS).apply(renderer.snapshot())


def test_policies_that_are_left_out_take_no_place_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each direction denies what all of them deny: with very many of them each change is as fast as with few."""
    monkeypatch.setattr(cost, "MAX_NAMESPACE_COST", 2_000)
    evaluator, renderer, _ = rendered(policy(to=[one_of(1)]))
    held = TableState.bare(SET_SPECS).apply(renderer.snapshot())
    for number in range(100):
        types = [["Egress"], ["Ingress"], ["Egress", "Ingress"]][number % 3]
        many = builders.policy(f"q{number:03}", namespace="x", policyTypes=types)
        held = held.apply(renderer.update([evaluator.put(many)]))
    assert len(evaluator.too_large) > 80
    assert len(evaluator.class_of(evaluator.selector_index.pod_ids[ObjectKey("x", "own")]).policies) < 25
    assert not passes(held, Packet(ip_address(PEER).packed, ip_address(POD).packed, "TCP", 80))
    for key in sorted(evaluator.too_large):
        held = held.apply(renderer.update([evaluator.remove(NetworkPolicy, ObjectKey(key.namespace, key.name))]))
    assert held == TableState.bare(SET_SPECS).apply(renderer.snapshot())


def test_a_change_of_one_of_many_policies_for_many_pods_is_fast() -> None:
    """Their class is put together once, not once for each pod."""
    evaluator, renderer, _ = rendered(policy(to=[one_of(1)]))
    for number in range(2, 200):
        evaluator.put(builders.pod(f"own{number}", f"10.1.0.{number}", namespace="x", node=NODE))
    for number in range(1000):
        evaluator.put(builders.policy(f"p{number}", namespace="x"))
    renderer.update([evaluator.put(policy(to=[one_of(2)]))])
    began = time.process_time()
    for number in range(10):
        renderer.update([evaluator.put(policy(to=[one_of(3 + number)]))])
    assert time.process_time() - began < 1.5


def test_a_pod_that_changes_its_labels_again_and_again_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each combination of policies is a class, and their number is unlimited."""
    monkeypatch.setattr("percale.policy.evaluator._MAX_KEPT", 20)
    evaluator, renderer, _ = rendered(policy(to=[one_of(1)]))
    names = [f"l{number}" for number in range(8)]
    for name in names:
        selector = {"matchLabels": {name: "yes"}}
        renderer.update([evaluator.put(builders.policy(name, namespace="x", podSelector=selector))])
    before = sum(isinstance(each, PolicyClass) for each in gc.get_objects())
    for number in range(1 << len(names)):
        labels = {name: "yes" for bit, name in enumerate(names) if number >> bit & 1}
        renderer.update([evaluator.put(builders.pod("own", POD, namespace="x", node=NODE, labels=labels))])
    gc.collect()
    assert sum(isinstance(each, PolicyClass) for each in gc.get_objects()) - before < 20


def test_a_policy_is_rendered_for_the_pods_that_it_selects_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has very many policies for very many pods delays no policy of others."""
    evaluator, renderer, _ = rendered(policy(to=[one_of(1)]))
    renderer.update([evaluator.put(builders.policy(f"many{number}", namespace="x")) for number in range(50)])
    asked: list[int] = []
    class_of = evaluator.class_of

    def watched(pod_id: int) -> PolicyClass:
        asked.append(pod_id)
        return class_of(pod_id)

    monkeypatch.setattr(evaluator, "class_of", watched)
    evaluator.put(builders.pod("other", "10.1.0.9", namespace="y", node=NODE))
    renderer.update([evaluator.put(builders.policy("p", namespace="y"))])
    assert asked == [evaluator.selector_index.pod_ids[ObjectKey("y", "other")]]


def test_pods_of_a_class_that_a_new_policy_does_not_select_keep_it() -> None:
    evaluator, renderer, _ = rendered(policy(to=[one_of(1)]))
    held = TableState.bare(SET_SPECS).apply(renderer.snapshot())
    labelled = builders.pod("labelled", "10.1.0.2", namespace="x", node=NODE, labels={"b": "c"})
    held = held.apply(renderer.update([evaluator.put(labelled)]))
    some = builders.policy("some", namespace="x", podSelector={"matchLabels": {"b": "c"}}, policyTypes=["Egress"])
    held = held.apply(renderer.update([evaluator.put(some)]))
    held = held.apply(renderer.update([evaluator.remove(NetworkPolicy, some.key)]))
    source, target = ip_address(POD).packed, ip_address(PEER).packed
    assert passes(held, Packet(source, target, "TCP", 80))
    assert held == TableState.bare(SET_SPECS).apply(renderer.snapshot())


def test_a_class_that_one_pod_leaves_and_another_joins_has_the_rules_of_now() -> None:
    """All in one batch, with a change of its policy that neither of them sees by itself."""
    evaluator, renderer, _ = rendered(policy(to=[one_of(1)]))
    labels = {"b": "c"}
    one, other = (
        builders.pod(name, ip, namespace="z", node=NODE) for name, ip in (("o", "10.1.0.5"), ("p", "10.1.0.6"))
    )
    joined = builders.pod("o", "10.1.0.5", namespace="z", node=NODE, labels=labels)
    selector = {"matchLabels": labels}
    shut = builders.policy("p", namespace="z", podSelector=selector, policyTypes=["Egress"])
    opened = builders.policy("p", namespace="z", podSelector=selector, policyTypes=["Egress"], egress=[{}])
    held = TableState.bare(SET_SPECS).apply(renderer.snapshot())
    held = held.apply(renderer.update([evaluator.put(each) for each in (joined, other, shut)]))
    source, target = ip_address("10.1.0.6").packed, ip_address(PEER).packed
    moved = builders.pod("p", "10.1.0.6", namespace="z", node=NODE, labels=labels)
    held = held.apply(renderer.update([evaluator.put(each) for each in (one, opened, moved)]))
    assert passes(held, Packet(source, target, "TCP", 80))
    assert held == TableState.bare(SET_SPECS).apply(renderer.snapshot())


def test_pods_with_labels_of_their_own_do_not_multiply_a_large_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each class has its rules once more, on its own node: the policy is left out, closed, until there are few again."""
    monkeypatch.setattr(rule_quota, "MAX_RULES", 100)
    evaluator, renderer, _ = rendered(policy(to=[one_of(1)]))
    large = builders.policy("large", namespace="x", egress=[{"to": [one_of(each) for each in range(30)]}])
    held = TableState.bare(SET_SPECS).apply(renderer.snapshot())
    held = held.apply(renderer.update([evaluator.put(large)]))
    pods = [
        builders.pod(f"o{number}", f"10.1.0.{number}", namespace="x", node=NODE, labels={"o": f"v{number}"})
        for number in range(2, 6)
    ]
    elsewhere = replace(pods[3], spec=replace(pods[3].spec, nodeName="n3"))
    for number, pod in enumerate([*pods[:3], elsewhere], start=2):
        own = builders.policy(f"own{number}", namespace="x", podSelector={"matchLabels": {"o": f"v{number}"}})
        held = held.apply(renderer.update([evaluator.put(own), evaluator.put(pod)]))
        assert {each.name for each in evaluator.too_large} == ({"large"} if number >= 4 else set())
    source, target, other = (ip_address(each).packed for each in (POD, PEER, "10.3.0.1"))
    assert passes(held, Packet(source, target, "TCP", 80)), "the small policy's rule is in force"
    assert not passes(held, Packet(source, other, "TCP", 80))
    assert sum(len(chain.rules) for chain in renderer.snapshot().put_chains) < 20
    held = held.apply(renderer.update([evaluator.remove(Pod, pods[0].key)]))
    assert not evaluator.too_large
    assert sum(len(chain.rules) for chain in renderer.snapshot().put_chains) > 90
    assert held == TableState.bare(SET_SPECS).apply(renderer.snapshot())
    held = held.apply(renderer.update([evaluator.put(pods[3])]))
    assert {each.name for each in evaluator.too_large} == {"large"}
    assert held == TableState.bare(SET_SPECS).apply(renderer.snapshot())


def test_named_ports_do_not_multiply_with_pods() -> None:
    """A rule means the first ones of each pod."""
    evaluator = Evaluator([builders.pod("own", POD, namespace="x", node=NODE)])
    names = [f"p{number}" for number in range(2 * MAX_NAMED_PORTS)]
    ports = [{"name": name, "containerPort": 1000 + number} for number, name in enumerate(names)]
    evaluator.put(builders.pod("peer", PEER, namespace="x", node="n2", ports=ports))
    renderer = PolicyRenderer(evaluator, NODE)
    transaction = renderer.update([evaluator.put(policy(ports=[{"port": name} for name in names]))])
    held = TableState.bare(SET_SPECS).apply(transaction)
    source, target = ip_address(POD).packed, ip_address(PEER).packed
    first, next_one = 1000 + MAX_NAMED_PORTS - 1, 1000 + MAX_NAMED_PORTS
    assert [passes(held, Packet(source, target, "TCP", port)) for port in (first, next_one)] == [True, False]


def test_verdicts_do_not_read_a_policy_from_end_to_end() -> None:
    """10^9 comparisons otherwise, while the cuts of others wait."""
    blocks = [{"ipBlock": {"cidr": f"100.{number // 256}.{number % 256}.0/25"}} for number in range(40_000)]
    ports = [{"port": number} for number in range(1, 20_000, 2)]
    evaluator, _, _ = rendered(policy(to=blocks, ports=ports))
    source = evaluator.flow_end(ip_address(POD).packed)
    began = time.process_time()
    for number in range(1, 20_000):
        target = evaluator.flow_end(ip_address(f"100.{number // 256}.{number % 256}.{number % 2 * 128}").packed)
        allowed = evaluator.evaluate(Flow(source, target, "TCP", number)).egress.allowed
        assert not allowed
    assert time.process_time() - began < 10.0


def test_many_exceptions_are_fast() -> None:
    """Linear: a square of them would be 10^8."""
    exceptions = tuple(f"10.{number // 256}.{number % 256}.0/24" for number in range(0, 20_000, 2))
    block = Block("10.0.0.0/8", exceptions)
    assert len(list(united([block], 4))) > len(exceptions)
    assert ip_address("10.0.1.9").packed in block
    assert ip_address("10.0.2.9").packed not in block


networks = st.builds(
    lambda number, length: str(parse_network(f"10.0.0.{number}/{length}")), st.integers(0, 255), st.integers(26, 32)
)
blocks = st.builds(
    Block, st.just("10.0.0.0/24") | networks, st.lists(networks, max_size=5).map(tuple)
)  # fmt: skip


@given(st.lists(blocks, max_size=4))
def test_blocks_are_their_networks_without_their_exceptions(given: list[Block]) -> None:
    """Also for exceptions that overlap, or lie outside."""
    found = list(united(given, 4))
    assert all(int(one.broadcast_address) < int(other.network_address) for one, other in pairwise(found))
    for number in range(256):
        address = ip_address(f"10.0.0.{number}")
        expected = [
            address in each.network and not any(address in without for without in each.excluded) for each in given
        ]
        assert [address.packed in each for each in given] == expected
        assert any(address in network for network in found) == any(expected)
