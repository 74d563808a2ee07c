"""The one evaluator: a cluster's policies, pods, namespaces and nodes → who may reach whom, and which rule says so.

    NetworkPolicy, ClusterNetworkPolicy ─ compiling ─▶ CompiledPolicy ─┐
    Pod, Namespace ─ membership ─▶ slots, terms ───────────────────────┼─▶ classes ─▶ judge(flow) ─▶ Verdict
    Node, SubnetLease ─▶ addresses ────────────────────────────────────┘

Kept up to date object by object; equal to a fresh one over the same objects (a property test holds it to that). The kernel's
rules are compiled from the same classes (`render/policy/class_chains.py`). Callers: render, explain, the agent, the commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from msgspec import Struct

from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.meta import Object, ObjectKey
from percale.model.namespace import Namespace
from percale.model.networkpolicy import NetworkPolicy
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease
from percale.policy.compiler import (
    CompiledPolicy,
    CompiledRule,
    PolicyKey,
    compile_cluster_policy,
    compile_network_policy,
)
from percale.policy.flow_match import Cluster, matches
from percale.policy.pod_facts import PodFacts, facts_of
from percale.policy.rule_terms import Direction, Term
from percale.policy.selector_index import Membership, Moved
from percale.policy.verdict import Decision, Flow, Party, Verdict

KINDS: tuple[type[Object], ...] = (Namespace, Node, SubnetLease, NetworkPolicy, ClusterNetworkPolicy, Pod)
"""What an evaluator wants to know of. Pods come last: each finds the terms that mean it, and is looked at once."""

_TIERS = {"Admin": 0, "NetworkPolicy": 1, "Baseline": 2}


class PolicyClass(Struct, frozen=True, dict=True):
    """The policies that select a pod, in the order in which they are asked. Pods with equal classes share their rules."""

    policies: tuple[CompiledPolicy, ...]

    @cached_property
    def keys(self) -> tuple[PolicyKey, ...]:
        return tuple(policy.key for policy in self.policies)

    def isolating(self, direction: Direction) -> tuple[PolicyKey, ...]:
        """The NetworkPolicies that deny what no rule of theirs allows."""
        return tuple(policy.key for policy in self.policies if direction in policy.isolates)

    @cached_property
    def _stages(self) -> Mapping[Direction, tuple[tuple[CompiledRule, ...], ...]]:
        return {direction: tuple(_stages_of(self.policies, direction)) for direction in ("egress", "ingress")}

    def stages(self, direction: Direction) -> tuple[tuple[CompiledRule, ...], ...]:
        """The rules in the tiers' order: Admin, NetworkPolicy, Baseline."""
        return self._stages[direction]


def _stages_of(policies: tuple[CompiledPolicy, ...], direction: Direction) -> Iterator[tuple[CompiledRule, ...]]:
    for tier in _TIERS:
        yield tuple(rule for policy in policies if policy.tier == tier for rule in policy.rules(direction))


class Touched(Struct, frozen=True):
    """What a change did: pods that moved, and policies that are new, different or gone."""

    moved: tuple[Moved, ...] = ()
    policies: tuple[tuple[CompiledPolicy | None, CompiledPolicy | None], ...] = ()
    """Old and new of each."""
    nodes: bool = False
    names: bool = False
    """Domain names have other addresses."""

    def __bool__(self) -> bool:
        return bool(self.moved or self.policies or self.nodes or self.names)


class Evaluator:
    """Not for two threads at a time."""

    def __init__(self, objects: Iterable[Object] = ()) -> None:
        """Of these objects, in any order."""
        self.members = Membership()
        self.policies: dict[PolicyKey, CompiledPolicy] = {}
        self.cluster = Cluster()
        self._subjects: dict[Term, dict[PolicyKey, None]] = {}
        self._classes: dict[tuple[PolicyKey, ...], PolicyClass] = {}
        for obj in sorted(objects, key=lambda each: isinstance(each, Pod)):
            self.put(obj)

    # Changes

    def put(self, obj: Object) -> Touched:
        """An object is new or changed; kinds that policies do not look at touch nothing."""
        match obj:
            case Pod():
                return self.put_facts(facts_of(obj))
            case Namespace():
                return Touched(tuple(self.members.put_namespace(obj)))
            case NetworkPolicy():
                return self._put_policy(compile_network_policy(obj))
            case ClusterNetworkPolicy():
                return self._put_policy(compile_cluster_policy(obj))
            case Node() | SubnetLease():
                return Touched(nodes=self.cluster.put(obj))
        return Touched()

    def put_facts(self, pod: PodFacts) -> Touched:
        """A pod is new or changed, by its facts."""
        return Touched(tuple(self.members.put_pod(pod)))

    def learn(self, names: Mapping[str, frozenset[bytes]]) -> Touched:
        """All that is known now of what domain names resolve to."""
        touched = Touched(names=self.cluster.names != names)
        self.cluster.names = dict(names)
        return touched

    def remove(self, kind: type[Object], key: ObjectKey) -> Touched:
        """An object is gone; that it was not there is fine."""
        if kind is Pod:
            return Touched(tuple(self.members.remove_pod(key)))
        if kind is Namespace:
            return Touched(tuple(self.members.remove_namespace(key.name)))
        if kind is NetworkPolicy:
            return self._remove_policy(PolicyKey("np", key.namespace or "default", key.name))
        if kind is ClusterNetworkPolicy:
            return self._remove_policy(PolicyKey("cnp", None, key.name))
        if kind in (Node, SubnetLease):
            return Touched(nodes=self.cluster.remove(kind, key.name))
        return Touched()

    def _put_policy(self, policy: CompiledPolicy) -> Touched:
        old = self.policies.get(policy.key)
        if old == policy:
            return Touched()
        self._subjects.setdefault(policy.subject, {})[policy.key] = None
        self.members.watch(policy.subject)
        if old is not None:
            self._forget(old, keep_subject=old.subject == policy.subject)
        self.policies[policy.key] = policy
        return Touched(policies=((old, policy),))

    def _remove_policy(self, key: PolicyKey) -> Touched:
        old = self.policies.pop(key, None)
        if old is None:
            return Touched()
        self._forget(old)
        return Touched(policies=((old, None),))

    def _forget(self, policy: CompiledPolicy, *, keep_subject: bool = False) -> None:
        self.members.unwatch(policy.subject)
        if not keep_subject:
            del self._subjects[policy.subject][policy.key]
            if not self._subjects[policy.subject]:
                del self._subjects[policy.subject]
        for keys in [keys for keys in self._classes if policy.key in keys]:
            del self._classes[keys]

    # Asking

    @property
    def known(self) -> Iterator[tuple[type[Object], ObjectKey]]:
        """The objects that it was told of."""
        yield from ((Pod, key) for key in self.members.slots)
        yield from ((Namespace, ObjectKey(None, name)) for name in self.members.namespaces)
        yield from self.cluster.known
        for kind, namespace, name in self.policies:
            yield NetworkPolicy if kind == "np" else ClusterNetworkPolicy, ObjectKey(namespace, name)

    @property
    def domains(self) -> frozenset[str]:
        """The domain names whose addresses policies wait for (`learn`)."""
        return frozenset(name for policy in self.policies.values() for name in policy.domains)

    def class_of(self, slot: int) -> PolicyClass:
        """The policies that select the pod at this slot."""
        subjects = self._subjects
        found = {key for term in self.members.terms[slot] if term in subjects for key in subjects[term]}
        return self._class(found)

    def _class(self, found: Iterable[PolicyKey]) -> PolicyClass:
        policies = self.policies
        order = sorted(found, key=lambda key: (_TIERS[policies[key].tier], policies[key].priority, key.name, key))
        known = self._classes.get(keys := tuple(order))
        if known is None:
            known = self._classes[keys] = PolicyClass(tuple(policies[key] for key in order))
        return known

    def party(self, address: bytes) -> Party:
        """Who has this packed address now."""
        pod = self.members.owner(address)
        return Party(address, pod, None if pod is not None else self.cluster.node_of(address))

    def judge(self, flow: Flow) -> Verdict:
        """May this connection begin?"""
        source, destination = flow.source, flow.destination
        if source.address == destination.address and source.pod is not None:
            return Verdict(flow, Decision("egress", True, "self"), Decision("ingress", True, "self"))
        if _own_node(source, destination) or _own_node(destination, source):
            return Verdict(flow, Decision("egress", True, "node"), Decision("ingress", True, "node"))
        return Verdict(
            flow,
            self._decide("egress", source.pod, destination, flow),
            self._decide("ingress", destination.pod, source, flow),
        )

    def _decide(self, direction: Direction, subject: PodFacts | None, peer: Party, flow: Flow) -> Decision:
        """First match wins in the tiers of cluster policies; NetworkPolicies add up and then close."""
        if subject is None or not subject.selectable:
            return Decision(direction, True, "open")
        policies = self.class_of(self.members.slots[subject.key])
        isolating = policies.isolating(direction)
        for tier, rules in zip(_TIERS, policies.stages(direction), strict=True):
            for rule in rules:
                if not matches(rule, peer, flow, self.members, self.cluster):
                    continue
                if rule.action == "Pass":
                    break
                allowed = rule.action == "Allow"
                return Decision(direction, allowed, "rule" if allowed else "denied", rule.ref, isolating)
            if tier == "NetworkPolicy" and isolating:
                return Decision(direction, False, "isolated", None, isolating)
        return Decision(direction, True, "open", None, isolating)


def _own_node(pod: Party, node: Party) -> bool:
    return pod.pod is not None and node.node is not None and pod.pod.node == node.node
