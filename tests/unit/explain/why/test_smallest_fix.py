"""What `why` proposes, applied as it is printed, allows the flow and opens no more than its form must."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert, to_builtins
from msgspec.structs import replace
from tests import builders
from tests.unit.policy.small_worlds import ADDRESSES, PORTS, busy_policies, worlds

from percale.explain.why.connection import Answer, explain_connection
from percale.explain.why.smallest_fix import AddLabels, AddPolicy, AddRule, Change, NoFix
from percale.explain.why.targets import Target, TargetLookup
from percale.explain.why.text import change_text
from percale.explain.world import Tool
from percale.model.addresses import packed
from percale.model.meta import Object
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Pod
from percale.model.selector import LabelSelector
from percale.policy.evaluator import Evaluator
from percale.policy.flow_match import rule_matches
from percale.policy.rule_terms import FlowProtocol
from percale.policy.verdict import Flow, FlowEnd


class Question(NamedTuple):
    source: str
    destination: str
    protocol: FlowProtocol
    port: int | None


QUESTIONS = tuple(
    Question(source, destination, *port)
    for source, destination, port in product(ADDRESSES, ADDRESSES, PORTS)
    if (":" in source) == (":" in destination)
)


def flow_of(evaluator: Evaluator, question: Question) -> Flow:
    source, destination = (evaluator.flow_end(packed(each)) for each in question[:2])
    return Flow(source, destination, question.protocol, question.port)


def allowed(evaluator: Evaluator) -> set[Question]:
    return {each for each in QUESTIONS if evaluator.evaluate(flow_of(evaluator, each)).allowed}


def ask(lookup: TargetLookup, question: Question) -> Answer:
    source, destination = (
        Target(each, (lookup.evaluator.flow_end(packed(each)),)) for each in (question.source, question.destination)
    )
    (answer,) = explain_connection(lookup, source, destination, question.protocol, question.port).answers
    return answer


# As a person does what is printed


def applied(objects: Sequence[Object], text: str) -> list[Object]:
    words = shlex.split(text) if not text.startswith("add to ") else []
    match words:
        case ["kubectl", "label", "pod", "-n", namespace, name, *labels]:
            added = dict(each.split("=") for each in labels)
            return [_labelled(each, namespace, name, added) for each in objects]
        case ["echo", manifest, "|", "kubectl", "apply", "-f", "-"]:
            content = yaml.safe_load(manifest)
            assert (content.pop("apiVersion"), content.pop("kind")) == ("networking.k8s.io/v1", "NetworkPolicy")
            new = convert(content, NetworkPolicy)
            assert new.key not in {each.key for each in objects if isinstance(each, NetworkPolicy)}
            return [*objects, new]
    where, _, rule = text.partition(": ")
    _, _, field, _, name = where.split()
    (added_rule,) = yaml.safe_load(rule)
    return [_with_rule(each, name, field.removeprefix("spec."), added_rule) for each in objects]


def _labelled(obj: Object, namespace: str, name: str, labels: dict[str, str]) -> Object:
    if not isinstance(obj, Pod) or (obj.metadata.namespace, obj.metadata.name) != (namespace, name):
        return obj
    assert not labels.keys() & obj.metadata.labels.keys()
    return replace(obj, metadata=replace(obj.metadata, labels={**obj.metadata.labels, **labels}))


def _with_rule(obj: Object, name: str, direction: str, rule: dict[str, Any]) -> Object:
    if not isinstance(obj, NetworkPolicy) or f"np:{obj.metadata.namespace}/{obj.metadata.name}" != name:
        return obj
    plain = to_builtins(obj)
    plain["spec"][direction] = [*plain["spec"].get(direction, ()), rule]
    return convert(plain, NetworkPolicy)


# What each form may open


def may_open(evaluator: Evaluator, answer: Answer, direction: str, change: Change, question: Question) -> bool:
    """Whether the smallest change of this form that allows the answer's flow opens this one."""
    flow, asked = flow_of(evaluator, question), answer.verdict.flow
    subject, peer = sides(flow, direction)
    own_subject, own_peer = sides(asked, direction)
    if isinstance(change, AddLabels):
        near = next(each.rule for each in answer.nearest if each.rule.direction == direction)
        policy = evaluator.policies[near.policy]
        rule = replace(policy.rules(near.direction)[near.position], peers=None)
        selected = subject.pod is not None and evaluator.selector_index.matches(policy.subject, subject.pod)
        fits = rule_matches(rule, peer, flow, evaluator.selector_index, evaluator.node_index)
        return peer.pod is not None and peer.pod.key == change.pod and selected and fits
    same_port = (question.protocol, question.port) == (asked.protocol, asked.port)
    return same_port and is_alike(subject, own_subject) and is_alike(peer, own_peer)


def sides(flow: Flow, direction: str) -> tuple[FlowEnd, FlowEnd]:
    return (flow.source, flow.destination) if direction == "egress" else (flow.destination, flow.source)


def is_alike(end: FlowEnd, own: FlowEnd) -> bool:
    """A pod of the same namespace with all the labels, or else the same address."""
    if own.pod is None or end.pod is None:
        return end == own
    return end.pod.namespace == own.pod.namespace and own.pod.labels.items() <= end.pod.labels.items()


@given(worlds(), st.lists(busy_policies, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_a_fix_allows_the_flow_and_opens_no_more_than_its_form_must(
    world: list[Object], policies: list[Object], random: Any
) -> None:
    unique = {(type(each), each.key): each for each in (*world, *policies)}
    objects = list(unique.values())
    evaluator = Evaluator(objects)
    before = allowed(evaluator)
    denied = [each for each in QUESTIONS if each not in before]
    for question in random.sample(denied, min(4, len(denied))):
        answer = ask(TargetLookup(evaluator), question)
        changes = [(each.direction, each.change) for each in answer.fixes]
        denying = [each for each in (answer.verdict.egress, answer.verdict.ingress) if not each.allowed]
        if any(isinstance(change, NoFix) for _, change in changes):
            assert all(isinstance(change, NoFix) for _, change in changes)
            continue
        assert [each.direction for each in denying] == [each.direction for each in answer.fixes]
        after_objects: list[Object] = objects
        for _, change in changes:
            after_objects = applied(after_objects, change_text(cast("AddLabels | AddRule | AddPolicy", change), Tool()))
        after = allowed(Evaluator(after_objects))
        assert question in after, (question, changes)
        assert not before - after, (question, changes, before - after)
        beyond = {
            each for each in after - before if not any(may_open(evaluator, answer, *change, each) for change in changes)
        }
        assert not beyond, (question, changes, beyond)


# One world, in words

CLIENT, SERVER = (
    builders.pod("client", "10.0.0.2", labels={"app": "client"}),
    builders.pod("server", "10.0.0.1", labels={"app": "server"}),
)
OTHER = builders.pod("other", "10.0.0.3", labels={"app": "other"})
ASK = Question("10.0.0.2", "10.0.0.1", "TCP", 80)
RULE = "{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80, protocol: TCP}]}"
LABEL = "kubectl label pod -n default client role=front"


def fixes(*objects: Object, question: Question = ASK, **lookup: Any) -> Iterator[str]:
    for fix in ask(TargetLookup(Evaluator((CLIENT, SERVER, OTHER, *objects)), **lookup), question).fixes:
        yield fix.change.reason if isinstance(fix.change, NoFix) else change_text(fix.change, Tool())


def ingress(*rules: Any, selector: Any = None, name: str = "p") -> NetworkPolicy:
    subject = {"matchLabels": {"app": "server"}} if selector is None else selector
    return builders.policy(name, podSelector=subject, ingress=list(rules), policyTypes=["Ingress"])


FRONT = {"podSelector": {"matchLabels": {"role": "front"}}}


def test_a_policy_of_these_pods_alone_gets_a_rule() -> None:
    assert list(fixes(ingress({"from": [FRONT], "ports": [{"port": 81}]}))) == [
        f"add to spec.ingress of np:default/p: - {RULE}"
    ]


def test_pods_to_come_stay_isolated_by_a_policy_of_all() -> None:
    """The namespace has no other pods yet."""
    question, deny = ASK._replace(source="192.0.2.1"), ingress(selector={}, name="all")
    (fix,) = ask(TargetLookup(Evaluator((SERVER, deny))), question).fixes
    assert isinstance(fix.change, AddPolicy)
    (fix,) = ask(TargetLookup(Evaluator((SERVER, deny, ingress()))), question).fixes
    assert isinstance(fix.change, AddRule)
    assert str(fix.change.policy) == "np:default/p"


def test_the_policy_of_the_nearest_rule_comes_first() -> None:
    near = ingress({"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 81}]})
    assert list(fixes(ingress(name="a"), near)) == [f"add to spec.ingress of np:default/p: - {RULE}"]


def test_a_port_is_never_added_to_a_rule_that_means_everybody() -> None:
    (fix,) = fixes(ingress({"ports": [{"port": 81}]}))
    assert fix == f"add to spec.ingress of np:default/p: - {RULE}"


def test_an_exception_of_a_block_stays() -> None:
    block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/24"]}}
    assert list(fixes(ingress({"from": [block]}))) == [f"add to spec.ingress of np:default/p: - {RULE}"]


def test_where_all_pods_are_isolated_there_is_a_policy_of_its_own() -> None:
    (fix,) = fixes(ingress(selector={}))
    assert fix.startswith(
        "echo '{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: allow-ingress-"
    )
    assert fix.endswith(
        "spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], "
        f"ingress: [{RULE}]}}}}' | kubectl apply -f -"
    )


def test_nobody_is_isolated_by_a_fix() -> None:
    """A pod with the same labels and more, which the policy spares."""
    twin = builders.pod("twin", "10.0.0.4", labels={"app": "server", "open": "1"})
    sparing = {"matchExpressions": [{"key": "open", "operator": "DoesNotExist"}]}
    assert list(fixes(ingress(selector=sparing), twin)) == [
        "a policy that selects default/server by its labels would isolate default/twin, which is open"
    ]


@pytest.mark.parametrize(
    ("objects", "lookup"),
    [
        ((ingress({"from": [FRONT]}, selector={"matchLabels": {"app": "other"}}, name="q"),), {}),
        ((builders.policy("q", podSelector=FRONT["podSelector"]),), {}),
        ((), {"selectors": (("default", LabelSelector(matchLabels={"role": "front"})),)}),
        ((), {"owned": frozenset((CLIENT.key,))}),
    ],
    ids=["another rule means it", "another policy selects it", "a Service selects it", "a workload makes the pod"],
)
def test_a_label_is_proposed_where_it_does_nothing_else(objects: Iterable[Object], lookup: dict[str, Any]) -> None:
    assert list(fixes(ingress({"from": [FRONT]}))) == [LABEL]
    assert list(fixes(ingress({"from": [FRONT]}), *objects, **lookup)) == [
        f"add to spec.ingress of np:default/p: - {RULE}"
    ]


def test_what_cannot_be_named_alone_is_not_proposed() -> None:
    bare = builders.pod("bare", "10.0.0.9")
    question = ASK._replace(source="10.0.0.9")
    assert list(fixes(ingress(), bare, question=question)) == [
        "default/bare has no labels by which a policy could mean it and not its whole namespace"
    ]
    assert list(fixes(ingress(), question=Question("10.0.0.2", "10.0.0.1", "ICMP", None))) == [
        "ICMP has no port: a rule allows it only with all ports of every protocol"
    ]


@pytest.mark.parametrize(
    ("tier", "reason"),
    [
        ("Admin", "cnp:c#ingress[0] denies it, whatever NetworkPolicies allow"),
        (
            "Baseline",
            "cnp:c#ingress[0] denies it unless a NetworkPolicy isolates default/server, and that would close more",
        ),
    ],
)
def test_what_a_cluster_policy_denies_has_no_fix(tier: str, reason: str) -> None:
    deny = {"action": "Deny", "from": [{"namespaces": {}}]}
    assert list(fixes(builders.cluster_policy("c", tier=tier, ingress=[deny]))) == [reason]


def test_a_rule_that_is_never_asked_is_not_the_nearest() -> None:
    """What passes the flow to the next tier comes before it."""
    accept = {"action": "Accept", "from": [{"pods": {"podSelector": {"matchLabels": {"role": "front"}}}}]}
    passing = {"action": "Pass", "from": [{"namespaces": {}}]}
    cluster = builders.cluster_policy("c", ingress=[passing, accept])
    lookup = TargetLookup(Evaluator((CLIENT, SERVER, cluster, ingress())))
    assert ask(lookup, ASK).nearest == ()
    assert list(fixes(cluster, ingress())) == [f"add to spec.ingress of np:default/p: - {RULE}"]


def test_a_rule_without_a_port_that_is_known_is_the_nearest_to_icmp_too() -> None:
    accept = {"action": "Accept", "from": [{"namespaces": {}}], "protocols": [{"tcp": {}}]}
    lookup = TargetLookup(Evaluator((CLIENT, SERVER, builders.cluster_policy("c", ingress=[accept]), ingress())))
    (near,) = ask(lookup, Question("10.0.0.2", "10.0.0.1", "ICMP", None)).nearest
    assert near.what == "it means no port that is known here"
