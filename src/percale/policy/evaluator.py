"""The one evaluator: from a cluster's policies, pods, namespaces and nodes to who may reach whom, and by which rule.

    NetworkPolicy, ClusterNetworkPolicy ─ kinds ────▶ CompiledPolicy ─┐
    Pod, Namespace ─ SelectorIndex ─▶ pods by selector term ──────────┼─▶ classes ─▶ evaluate(flow) ─▶ Verdict
    Node, SubnetLease ─ NodeIndex ─▶ nodes by address ────────────────┘

Updated object by object; always equal to a fresh one over the same objects (tested by properties). The kernel's rules are
rendered from the same classes (`render/policy/class_chains.py`). Callers: render, explain, the agent, the commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property

from msgspec import Struct
from msgspec.structs import replace

from percale.model.meta import Object, ObjectKey
from percale.model.namespace import Namespace
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease
from percale.policy.compiled_policy import DIRECTIONS, TIERS, CompiledPolicy, CompiledRule, PolicyKey, RuleRef, Tier
from percale.policy.cost import PolicyCosts
from percale.policy.flow_match import rule_matches
from percale.policy.kinds.registry import POLICY_KINDS, PolicyKinds
from percale.policy.node_index import NodeIndex
from percale.policy.pod_facts import PodFacts, facts_of
from percale.policy.rule_quota import RuleQuota, SelectedPod
from percale.policy.rule_terms import EVERYTHING, Direction, PodSelectorTerm, digest
from percale.policy.selector_index import PodDelta, SelectorIndex, pod_ids_in
from percale.policy.verdict import Decision, Flow, FlowEnd, Verdict

_MAX_KEPT = 500_000
"""Policies in the classes that are kept, some 50 MB: a tenant may make one after the other, by pods' labels."""
_TIER_ORDER: dict[Tier, int] = {tier: index for index, tier in enumerate(TIERS)}


class PolicyClass(Struct, frozen=True, dict=True):
    """The policies that select a pod, in the order of evaluation. Pods with equal classes share their rules."""

    policies: tuple[CompiledPolicy, ...]

    @cached_property
    def name(self) -> str:
        """Of classes with the same policies."""
        return digest(*map(str, self.keys))

    @cached_property
    def keys(self) -> tuple[PolicyKey, ...]:
        return tuple(policy.key for policy in self.policies)

    def isolating(self, direction: Direction) -> tuple[PolicyKey, ...]:
        """The NetworkPolicies that isolate the pods in this direction."""
        return tuple(policy.key for policy in self.policies if direction in policy.isolates)

    @cached_property
    def _rules_by_tier(self) -> Mapping[Direction, tuple[tuple[CompiledRule, ...], ...]]:
        return {direction: tuple(_tiers_of(self.policies, direction)) for direction in DIRECTIONS}

    @cached_property
    def key_set(self) -> frozenset[PolicyKey]:
        return frozenset(self.keys)

    @cached_property
    def comparisons(self) -> Mapping[Direction, int]:
        """What one evaluation takes at most: comparisons with a rule's ports and addresses, or with a selector."""
        return {
            direction: sum(1 + len(rule.selectors) for policy in self.policies for rule in policy.rules(direction))
            for direction in DIRECTIONS
        }

    def rules_by_tier(self, direction: Direction) -> tuple[tuple[CompiledRule, ...], ...]:
        """The rules of each of `TIERS`."""
        return self._rules_by_tier[direction]


def _tiers_of(policies: tuple[CompiledPolicy, ...], direction: Direction) -> Iterator[tuple[CompiledRule, ...]]:
    for tier in TIERS:
        yield tuple(rule for policy in policies if policy.tier == tier for rule in policy.rules(direction))


_UNKNOWN = PolicyKey("unknown", None, "labels")
_ISOLATE = CompiledPolicy(
    key=_UNKNOWN,
    tier="NetworkPolicy",
    priority=0,
    subject=PodSelectorTerm(EVERYTHING),
    subject_field=(),
    isolates=DIRECTIONS,
    egress=(),
    ingress=(),
)
"""Of a pod whose labels are not known, where a policy may select it."""
_DENY = replace(
    _ISOLATE, tier="Admin", isolates=(), egress=(CompiledRule(RuleRef(_UNKNOWN, "egress", 0), "Deny", None, None),)
)
"""As well, where a cluster policy may: it may deny the pod its own node."""


class PolicyDelta(Struct, frozen=True):
    """What a change affected: pods, and policies that were created, changed or deleted."""

    pods: tuple[PodDelta, ...] = ()
    policies: tuple[tuple[CompiledPolicy | None, CompiledPolicy | None], ...] = ()
    """The old and the new one of each."""
    selected: frozenset[int] = frozenset()
    """The ids of the pods that one of these selects, or selected."""
    nodes: bool = False
    resolved_names: bool = False
    """Domain names resolve to other addresses."""

    def __bool__(self) -> bool:
        return bool(self.pods or self.policies or self.nodes or self.resolved_names)


class Evaluator:
    """Not thread-safe."""

    def __init__(self, objects: Iterable[Object] = (), *, policy_kinds: PolicyKinds = POLICY_KINDS) -> None:
        """Starts with these objects, in any order."""
        self.policy_kinds = policy_kinds
        self.selector_index = SelectorIndex()
        self.policies: dict[PolicyKey, CompiledPolicy] = {}
        self.node_index = NodeIndex()
        self._subjects: dict[PodSelectorTerm, dict[PolicyKey, None]] = {}
        self._classes: dict[frozenset[PodSelectorTerm], PolicyClass] = {}
        """By the subjects that select the pods."""
        self._kept = 0
        """Policies in these classes."""
        self._costs = PolicyCosts(self.selector_index)
        self._quota = RuleQuota()
        for obj in sorted(objects, key=lambda each: isinstance(each, Pod)):
            self.put(obj)

    @property
    def kinds(self) -> tuple[type[Object], ...]:
        """The kinds that it evaluates. Pods come last, so that each is matched against all terms once."""
        return Namespace, Node, SubnetLease, *self.policy_kinds.object_types, Pod

    # Changes

    def put(self, obj: Object) -> PolicyDelta:
        """An object is new or changed; other kinds than `kinds` have no effect."""
        match obj:
            case Pod():
                return self.put_facts(facts_of(obj))
            case Namespace():
                return self._pods_changed(self.selector_index.put_namespace(obj))
            case Node() | SubnetLease():
                return PolicyDelta(nodes=self.node_index.put(obj))
        policy_kind = self.policy_kinds.of(type(obj))
        return self._put_policy(policy_kind.compile(obj)) if policy_kind is not None else PolicyDelta()

    def put_facts(self, pod: PodFacts) -> PolicyDelta:
        """A pod is new or changed, given by its facts."""
        return self._pods_changed(self.selector_index.put_pod(pod))

    def set_resolved_names(self, resolved_names: Mapping[str, frozenset[bytes]]) -> PolicyDelta:
        """Replace all that domain names resolve to."""
        delta = PolicyDelta(resolved_names=self.node_index.resolved_names != resolved_names)
        self.node_index.resolved_names = dict(resolved_names)
        return delta

    def remove(self, kind: type[Object], key: ObjectKey) -> PolicyDelta:
        """An object was deleted; an unknown one is no error."""
        if kind is Pod:
            return self._pods_changed(self.selector_index.remove_pod(key))
        if kind is Namespace:
            return self._pods_changed(self.selector_index.remove_namespace(key.name))
        if kind in (Node, SubnetLease):
            return PolicyDelta(nodes=self.node_index.remove(kind, key.name))
        policy_kind = self.policy_kinds.of(kind)
        return self._remove_policy(policy_kind.key(key)) if policy_kind is not None else PolicyDelta()

    def _put_policy(self, policy: CompiledPolicy) -> PolicyDelta:
        old = self.policies.get(policy.key)
        if old == policy:
            return PolicyDelta()
        self._subjects.setdefault(policy.subject, {})[policy.key] = None
        self.selector_index.watch(policy.subject)
        self._forget_classes(policy.subject)
        before = self._members(old) if old is not None else set()
        if old is not None:
            self._release(old, keep_subject=old.subject == policy.subject)
        self.policies[policy.key] = policy
        others: Set[PolicyKey] = frozenset()
        if policy.tier == "NetworkPolicy":
            others = self._costs.put(policy) | self._quota.set_policy(policy.key, policy)
            others |= self._select(policy.key, before, self._members(policy))
        return self._policies_changed(old, policy, before, others)

    def _remove_policy(self, key: PolicyKey) -> PolicyDelta:
        old = self.policies.pop(key, None)
        if old is None:
            return PolicyDelta()
        before = self._members(old)
        self._release(old)
        others: Set[PolicyKey] = frozenset()
        if old.tier == "NetworkPolicy":
            others = self._costs.remove(key) | self._select(key, before, set()) | self._quota.set_policy(key, None)
        return self._policies_changed(old, None, before, others)

    def _policies_changed(
        self, old: CompiledPolicy | None, new: CompiledPolicy | None, before: set[int], others: Set[PolicyKey]
    ) -> PolicyDelta:
        """One of them is new, changed or gone; `others` are too large now, or no longer."""
        reclassified = tuple(self._reclassified(others - {each.key for each in (old, new) if each is not None}))
        now = [each for _, each in ((old, new), *reclassified) if each is not None]
        return PolicyDelta(
            policies=((old, new), *reclassified), selected=frozenset(before).union(*map(self._members, now))
        )

    def _pods_changed(self, deltas: Sequence[PodDelta]) -> PolicyDelta:
        others = self._quota.set_pods({each.pod_id: self._selected(each.pod_id) for each in deltas})
        reclassified = tuple(self._reclassified(others))
        selected = frozenset[int]().union(*(self._members(each) for _, each in reclassified))
        return PolicyDelta(tuple(deltas), reclassified, selected)

    def _members(self, policy: CompiledPolicy) -> set[int]:
        """The ids of the pods that a policy selects, and of those whose labels are not known: it may select them."""
        return {*pod_ids_in(self.selector_index.bits(policy.subject)), *self.selector_index.unknown}

    def _select(self, key: PolicyKey, before: set[int], after: set[int]) -> Set[PolicyKey]:
        """Returns policies that are too large now, or no longer."""
        pods = self.selector_index.pods
        gained = {pod_id: pod for pod_id in after - before if (pod := pods[pod_id]) is not None and not pod.unknown}
        return self._quota.select(key, gained, before - after - self.selector_index.unknown)

    def _selected(self, pod_id: int) -> SelectedPod | None:
        """The NetworkPolicies that select a pod; None: there is none."""
        pod = self.selector_index.pods[pod_id]
        keys = frozenset(key for key in self._policies_of(pod_id) if self.policies[key].tier == "NetworkPolicy")
        return SelectedPod(pod.namespace, pod.node, keys) if pod is not None and keys else None

    def _policies_of(self, pod_id: int) -> Iterator[PolicyKey]:
        subjects = self._subjects
        return (key for term in self.selector_index.terms[pod_id] if term in subjects for key in subjects[term])

    def _reclassified(self, others: Iterable[PolicyKey]) -> Iterator[tuple[CompiledPolicy, CompiledPolicy]]:
        """Other policies that are too large now, or no longer: their classes are built again."""
        for key in others:
            self._forget_classes(self.policies[key].subject)
            yield self.policies[key], self.policies[key]

    def _release(self, policy: CompiledPolicy, *, keep_subject: bool = False) -> None:
        self.selector_index.unwatch(policy.subject)
        if not keep_subject:
            del self._subjects[policy.subject][policy.key]
            if not self._subjects[policy.subject]:
                del self._subjects[policy.subject]
        self._forget_classes(policy.subject)

    def _forget_classes(self, subject: PodSelectorTerm) -> None:
        for subjects in [subjects for subjects in self._classes if subject in subjects]:
            del self._classes[subjects]

    # Queries

    @property
    def too_large(self) -> frozenset[PolicyKey]:
        """The policies whose rules are left out for what they would cost."""
        return self._quota.left_out.union(self._costs.too_large)

    @property
    def object_keys(self) -> Iterator[tuple[type[Object], ObjectKey]]:
        """Kind and key of every object that it has."""
        yield from ((Pod, key) for key in self.selector_index.pod_ids)
        yield from ((Namespace, ObjectKey(None, name)) for name in self.selector_index.namespaces)
        yield from self.node_index.object_keys
        yield from map(self.policy_kinds.object_key, self.policies)

    @property
    def domains(self) -> frozenset[str]:
        """The domain names that policies need resolved (`set_resolved_names`)."""
        return frozenset(name for policy in self.policies.values() for name in policy.domains)

    def class_of(self, pod_id: int) -> PolicyClass:
        """The policies that select the pod with this id."""
        subjects = self._subjects
        pod = self.selector_index.pods[pod_id]
        if pod is not None and pod.unknown:
            return self._class_of_unknown(pod.namespace)
        selecting = frozenset(term for term in self.selector_index.terms[pod_id] if term in subjects)
        known = self._classes.get(selecting)
        if known is None:
            known = self._build_class(key for term in selecting for key in subjects[term])
            self._kept += len(known.policies)
            if self._kept > _MAX_KEPT:
                self._classes.clear()
                self._kept = len(known.policies)
            self._classes[selecting] = known
        return known

    def _class_of_unknown(self, namespace: str) -> PolicyClass:
        """Of a pod whose labels are not known."""
        keys = (key for subject, keys in self._subjects.items() if self._may_select(subject, namespace) for key in keys)
        tiers = {self.policies[key].tier for key in keys}
        if not tiers:
            return PolicyClass(())
        return PolicyClass((_ISOLATE,) if tiers == {"NetworkPolicy"} else (_DENY, _ISOLATE))

    def _may_select(self, subject: PodSelectorTerm, namespace: str) -> bool:
        if isinstance(subject.namespaces, str):
            return subject.namespaces == namespace
        return subject.namespaces.matches(self.selector_index.labels_of(namespace))

    def _build_class(self, found: Iterable[PolicyKey]) -> PolicyClass:
        """NetworkPolicies that are too large isolate the pods and allow nothing: one for each direction says so for all."""
        policies: list[CompiledPolicy] = []
        closed: set[tuple[Direction, ...]] = set()
        for policy in sorted(map(self.policies.__getitem__, found), key=_order):
            if policy.tier == "NetworkPolicy" and self._is_too_large(policy.key):
                if policy.isolates in closed:
                    continue
                closed.add(policy.isolates)
                policy = replace(policy, egress=(), ingress=())  # noqa: PLW2901
            policies.append(policy)
        return PolicyClass(tuple(policies))

    def _is_too_large(self, key: PolicyKey) -> bool:
        return self._costs.is_too_large(key) or self._quota.is_left_out(key)

    def flow_end(self, address: bytes) -> FlowEnd:
        """The pod or node that owns this packed address."""
        pod = self.selector_index.owner(address)
        return FlowEnd(address, pod, None if pod is not None else self.node_index.node_of(address))

    def evaluate(self, flow: Flow) -> Verdict:
        """The verdict on a new connection."""
        return Verdict(flow, self.decide("egress", flow), self.decide("ingress", flow))

    def decide(self, direction: Direction, flow: Flow) -> Decision:
        """The half of it that is made at the source ("egress"), or at the destination."""
        source, destination = flow.source, flow.destination
        if source.address == destination.address and source.pod is not None:
            return Decision(direction, True, "self")
        if _own_node(destination, source):
            return Decision(direction, True, "node")
        subject, peer = (source, destination) if direction == "egress" else (destination, source)
        return self._decided_by_rules(direction, subject.pod, peer, flow, exempt=_own_node(source, destination))

    def _decided_by_rules(
        self, direction: Direction, subject: PodFacts | None, peer: FlowEnd, flow: Flow, *, exempt: bool
    ) -> Decision:
        """First match wins in the tiers of cluster policies; NetworkPolicies are additive and then isolate.

        An `exempt` flow is allowed by all NetworkPolicies.
        """
        if subject is None or not subject.selectable:
            return Decision(direction, True, "open")
        policies = self.class_of(self.selector_index.pod_ids[subject.key])
        isolating = policies.isolating(direction)
        for tier, rules in zip(TIERS, policies.rules_by_tier(direction), strict=True):
            if exempt and isolating and tier == "NetworkPolicy":
                break
            for rule in rules:
                if not rule_matches(rule, peer, flow, self.selector_index, self.node_index):
                    continue
                if rule.action == "Pass":
                    break
                allowed = rule.action == "Accept"
                return Decision(direction, allowed, "rule" if allowed else "denied", rule.ref, isolating)
            if tier == "NetworkPolicy" and isolating:
                return Decision(direction, False, "isolated", None, isolating)
        return Decision(direction, True, "node") if exempt else Decision(direction, True, "open", None, isolating)


def _order(policy: CompiledPolicy) -> tuple[int, int, str, PolicyKey]:
    return _TIER_ORDER[policy.tier], policy.priority, policy.key.name, policy.key


def _own_node(pod: FlowEnd, node: FlowEnd) -> bool:
    return pod.pod is not None and node.node is not None and pod.pod.node == node.node
