"""The evaluator, kept up to date over any sequence of changes, says what a fresh one says, and what policy.md says."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from itertools import product
from random import Random

from hypothesis import event, given
from hypothesis import strategies as st
from tests import builders
from tests.builders import cluster_policy
from tests.unit.policy.oracle import Oracle, Question
from tests.unit.policy.small_worlds import ADDRESSES, PORTS, Change, changes, puts, worlds

from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.pod import Pod
from percale.policy.evaluator import Evaluator
from percale.policy.verdict import Flow, Verdict

QUESTIONS = [
    Question(source, destination, protocol, port)
    for source, destination in product(ADDRESSES, ADDRESSES)
    if (":" in source) == (":" in destination)
    for protocol, port in PORTS
]


def asked(evaluator: Evaluator, question: Question) -> Verdict:
    source, destination = (
        evaluator.flow_end(ip_address(each).packed) for each in (question.source, question.destination)
    )
    return evaluator.evaluate(Flow(source, destination, question.protocol, question.port))


def apply(world: dict[tuple[type[Object], ObjectKey], Object], evaluator: Evaluator, change: Change) -> None:
    if isinstance(change, Object):
        world[type(change), change.key] = change
        evaluator.put(change)
    else:
        world.pop(change, None)
        evaluator.remove(*change)


@given(worlds(), st.lists(puts, max_size=3))
def test_verdicts_are_those_of_policy_md(objects: list[Object], more: list[Object]) -> None:
    world = {(type(each), each.key): each for each in (*objects, *more)}.values()
    evaluator, oracle = Evaluator(world), Oracle(world)
    denied = 0
    for question in QUESTIONS:
        verdict = asked(evaluator, question)
        assert verdict.allowed == oracle.allowed(question), (question, verdict)
        denied += not verdict.allowed
    event("something is denied" if denied else "all is open")


@given(worlds(), st.lists(changes, max_size=12), st.data())
def test_any_sequence_of_changes_ends_as_a_fresh_start(
    first: list[Object], steps: list[Change], data: st.DataObject
) -> None:
    world: dict[tuple[type[Object], ObjectKey], Object] = {}
    evaluator = Evaluator()
    for step in (*first, *steps):
        apply(world, evaluator, step)
        if data.draw(st.booleans()):  # what was asked in between must not be remembered
            verdicts_of(evaluator, QUESTIONS[::7])
    fresh = Evaluator(data.draw(st.permutations(list(world.values()))))
    assert verdicts_of(evaluator, QUESTIONS) == verdicts_of(fresh, QUESTIONS)
    assert members_of(evaluator) == members_of(fresh)
    assert sorted(evaluator.object_keys, key=repr) == sorted(world, key=repr)


def verdicts_of(evaluator: Evaluator, questions: Iterable[Question]) -> list[Verdict]:
    return [asked(evaluator, question) for question in questions]


def members_of(evaluator: Evaluator) -> dict[object, set[str]]:
    """What each watched term means, which the kernel's sets are filled with."""
    return {
        subject: {str(pod.key) for pod in evaluator.selector_index.members(subject)}
        for subject in {policy.subject for policy in evaluator.policies.values()}
    }


@given(worlds(), st.lists(changes, max_size=8), st.randoms())
def test_removing_everything_leaves_nothing(first: list[Object], steps: list[Change], random: Random) -> None:
    world: dict[tuple[type[Object], ObjectKey], Object] = {}
    evaluator = Evaluator()
    for step in (*first, *steps):
        apply(world, evaluator, step)
    for kind, key in random.sample(list(world), len(world)):
        evaluator.remove(kind, key)
    assert not [*evaluator.object_keys]
    assert all(evaluator.flow_end(ip_address(each).packed).pod is None for each in ADDRESSES)
    assert all(verdict.allowed for verdict in verdicts_of(evaluator, QUESTIONS))


def test_one_selector_spelled_in_two_orders_is_one_term_and_each_policy_may_go_first() -> None:
    """Found here: the second to go looked for its own spelling, and the agent ended with a KeyError."""
    has_a, not_b = {"key": "a", "operator": "Exists"}, {"key": "b", "operator": "NotIn", "values": ["1", "2"]}
    policies = [
        cluster_policy(
            name,
            subject={"namespaces": {"matchExpressions": expressions}},
            ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}],
        )
        for name, expressions in (("c", [has_a, not_b]), ("d", [not_b, has_a]))
    ]
    for first, second in (policies, reversed(policies)):
        evaluator = Evaluator(policies)
        evaluator.remove(ClusterNetworkPolicy, first.key)
        assert [key.name for key in evaluator.policies] == [second.metadata.name]
        evaluator.remove(ClusterNetworkPolicy, second.key)
        assert not evaluator.policies


def test_two_nodes_with_one_address_are_told_apart_by_name_in_any_order() -> None:
    """A machine that comes back under another name leaves its old object behind for a while."""
    nodes = [builders.node(name, "192.168.1.1", "192.168.1.1") for name in ("n1", "n2")]
    address = ip_address("192.168.1.1").packed
    for order in (nodes, nodes[::-1]):
        assert Evaluator(order).flow_end(address).node == "n1"
    evaluator = Evaluator(nodes)
    evaluator.remove(Node, nodes[0].key)
    assert evaluator.flow_end(address).node == "n2"


def test_a_pod_whose_status_says_an_address_twice_can_go() -> None:
    """Found here: the second of them was given back twice, and the agent ended with a KeyError."""
    pod = builders.pod("u", "10.0.1.1", "10.0.1.1")
    evaluator = Evaluator([pod])
    evaluator.remove(Pod, pod.key)
    assert evaluator.flow_end(ip_address("10.0.1.1").packed).pod is None
