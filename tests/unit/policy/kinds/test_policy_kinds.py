"""Kinds of policies: each, and one that only this test knows, through evaluator, rules, linter and controller."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest
from tests.silent import silent_problems

from percale.agent.events import Events, InvolvedObject
from percale.agent.informer import Informer
from percale.agent.policy.controller import PolicyController
from percale.agent.table_sections import NodeTable
from percale.kernel.nftables.fake_table import FakeNftTable
from percale.model.addresses import packed
from percale.model.clusternetworkpolicy import (
    ClusterNetworkPolicy,
    ClusterNetworkPolicySpec,
    ClusterNetworkPolicySubject,
    NamespacedPod,
)
from percale.model.manifest.decode import ManifestEntry, Source
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Container, Pod, PodSpec, PodStatus
from percale.model.selector import LabelSelector
from percale.policy.compiled_policy import CompiledPolicy, CompiledRule, PolicyKey, RuleRef
from percale.policy.evaluator import Evaluator, PolicyDelta
from percale.policy.kinds.cluster_network_policy import ClusterNetworkPolicyKind
from percale.policy.kinds.network_policy import NetworkPolicyKind
from percale.policy.kinds.policy_kind import PolicyKind
from percale.policy.kinds.registry import PolicyKinds
from percale.policy.lint.finding import LintedPolicy, LintFindings, finding
from percale.policy.lint.linter import lint
from percale.policy.rule_terms import PodSelectorTerm
from percale.policy.verdict import Flow
from percale.render.policy.renderer import PolicyRenderer
from percale.store.memory import MemoryStore


class Quarantine(Object, frozen=True, kw_only=True):
    """Nothing reaches the pods with these labels."""

    API_VERSION: ClassVar[str] = "test.example/v1"
    KIND: ClassVar[str] = "Quarantine"

    pods: LabelSelector = LabelSelector()


class QuarantineKind(PolicyKind[Quarantine]):
    prefix = "q"
    object_type = Quarantine

    def compile(self, policy: Quarantine) -> CompiledPolicy:
        key = self.key(policy.key)
        return CompiledPolicy(
            key=key,
            tier="Admin",
            priority=0,
            subject=PodSelectorTerm(key.namespace or "", policy.pods),
            subject_field=("pods",),
            isolates=(),
            egress=(),
            ingress=(CompiledRule(RuleRef(key, "ingress", 0), "Deny", None, None),),
        )

    def lint(self, policy: LintedPolicy) -> LintFindings:
        yield finding("no-effect", policy, ("pods",), "only a test", "remove it")


KINDS = PolicyKinds(NetworkPolicyKind(), ClusterNetworkPolicyKind(), QuarantineKind())
POLICIES = (
    NetworkPolicy(metadata=ObjectMeta(name="p", namespace="x")),
    ClusterNetworkPolicy(
        metadata=ObjectMeta(name="p"),
        spec=ClusterNetworkPolicySpec(
            tier="Baseline", priority=1, subject=ClusterNetworkPolicySubject(pods=NamespacedPod())
        ),
    ),
    Quarantine(metadata=ObjectMeta(name="p", namespace="x"), pods=LabelSelector(matchLabels={"app": "db"})),
)
QUARANTINE = POLICIES[-1]
KEY = PolicyKey("q", "x", "p")


def pod(name: str, address: str) -> Pod:
    return Pod(
        metadata=ObjectMeta(name=name, namespace="x", labels={"app": name}),
        spec=PodSpec(containers=(Container(name="c"),), nodeName="n1"),
        status=PodStatus(phase="Running", podIP=address),
    )


WEB, DB = pod("web", "10.244.0.2"), pod("db", "10.244.0.3")


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.KIND)
def test_a_policy_is_known_by_its_object_and_by_its_key(policy: Object) -> None:
    kind = KINDS.of(type(policy))
    assert kind is not None
    key = kind.compile(policy).key
    assert key == KINDS.key(policy) == kind.key(policy.key)
    assert KINDS.of_policy(key) is kind
    assert KINDS.object_key(key) == (type(policy), policy.key)
    assert str(key).startswith(f"{kind.prefix}:")


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.KIND)
def test_the_evaluator_takes_and_forgets_it(policy: Object) -> None:
    evaluator = Evaluator(policy_kinds=KINDS)
    assert type(policy) in evaluator.kinds
    assert len(evaluator.put(policy).policies) == 1
    assert not evaluator.put(policy)
    assert list(evaluator.object_keys) == [(type(policy), policy.key)]
    assert len(evaluator.remove(type(policy), policy.key).policies) == 1
    assert list(evaluator.object_keys) == []


def test_no_kind_is_of_another_object() -> None:
    assert KINDS.of(Pod) is None
    assert not Evaluator([WEB], policy_kinds=PolicyKinds(NetworkPolicyKind())).put(QUARANTINE)


def test_verdicts_and_rules_name_it() -> None:
    evaluator = Evaluator((WEB, DB, QUARANTINE), policy_kinds=KINDS)
    web, db = (evaluator.flow_end(packed(each.status.podIP or "")) for each in (WEB, DB))
    verdict = evaluator.evaluate(Flow(web, db, "TCP", 80))
    assert not verdict.allowed
    assert str(verdict.decisive.rule) == "q:x/p#ingress[0]"
    assert evaluator.evaluate(Flow(db, web, "TCP", 80)).allowed
    renderer = PolicyRenderer(evaluator, "n1")
    chains = renderer.update(
        [PolicyDelta(policies=((None, evaluator.policies[KEY]),), selected=frozenset({0, 1}))]
    ).put_chains
    assert {rule.comment for chain in chains for rule in chain.rules} == {"q:x/p#ingress[0]"}


def test_the_linter_checks_it_as_all_and_by_itself() -> None:
    entries = [ManifestEntry(each, Source("a.yaml", line)) for line, each in enumerate((WEB, QUARANTINE), 1)]
    assert [str(each) for each in lint(entries, kinds=KINDS)] == [
        "warning: q:x/p#podSelector: podSelector selects no pod of namespace x (the pods there have app: web)",
        "warning: q:x/p: only a test (remove it)",
    ]


async def test_the_controller_watches_it_and_names_it_in_events() -> None:
    store = MemoryStore()
    problems = silent_problems()
    table = NodeTable(FakeNftTable(), problems, Events("n1", store, problems))
    informer = Informer(store, problems)
    controller = PolicyController("n1", informer, table, problems=problems, policy_kinds=KINDS)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(part.run()) for part in (controller, table, informer)]
        for each in (DB, QUARANTINE):
            await store.put(each)
        while KEY not in controller.evaluator.policies or not list(controller.snapshot().put_chains):
            await asyncio.sleep(0)
        involved = set(controller.involved_objects(controller.snapshot()))
        await store.delete(Quarantine, QUARANTINE.key)
        while controller.evaluator.policies:
            await asyncio.sleep(0)
        for task in running:
            task.cancel()
    assert involved == {InvolvedObject("Quarantine", QUARANTINE.key), InvolvedObject("Pod", ObjectKey("x", "db"))}
