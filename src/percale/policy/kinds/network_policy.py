"""NetworkPolicy. Source: networking.k8s.io/v1 types and defaults."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from percale.model.field_path import FieldPath
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.networkpolicy import NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort
from percale.policy.compiled_policy import DIRECTIONS, PEERS_FIELD, CompiledPolicy, CompiledRule, PolicyKey, RuleRef
from percale.policy.kinds.policy_kind import PolicyKind
from percale.policy.lint.finding import LintedPolicy, LintFindings, finding
from percale.policy.rule_terms import (
    EVERYTHING,
    Block,
    Direction,
    Peer,
    PodSelectorTerm,
    Port,
    PortName,
    PortSpan,
)


class NetworkPolicyKind(PolicyKind[NetworkPolicy]):
    """Policies of one namespace; they add up, and isolate the pods that they select."""

    prefix = "np"
    object_type = NetworkPolicy

    def compile(self, policy: NetworkPolicy) -> CompiledPolicy:
        namespace = policy.metadata.namespace or DEFAULT_NAMESPACE
        key = PolicyKey(self.prefix, namespace, policy.metadata.name)
        spec = policy.spec
        types = spec.types
        isolates: tuple[Direction, ...] = tuple([each for each in DIRECTIONS if each.capitalize() in types])
        egress = [
            _rule(RuleRef(key, "egress", index), namespace, rule.to, rule.ports)
            for index, rule in enumerate(spec.egress)
        ]
        ingress = [
            _rule(RuleRef(key, "ingress", index), namespace, rule.from_, rule.ports)
            for index, rule in enumerate(spec.ingress)
        ]
        rules: tuple[tuple[Direction, list[CompiledRule]], ...] = (("egress", egress), ("ingress", ingress))
        return CompiledPolicy(
            key=key,
            tier="NetworkPolicy",
            priority=0,
            subject=PodSelectorTerm(namespace, spec.podSelector),
            subject_field=("spec",),
            isolates=isolates,
            egress=tuple(egress) if "egress" in isolates else (),
            ingress=tuple(ingress) if "ingress" in isolates else (),
            ineffective=tuple([each for each, given in rules if given and each not in isolates]),
        )

    def lint(self, policy: LintedPolicy) -> LintFindings:
        """Ranges whose `endPort` equals `port`."""
        assert isinstance(policy.object, NetworkPolicy)
        spec = policy.object.spec
        lists: Iterable[tuple[FieldPath, tuple[NetworkPolicyPort, ...]]] = (
            *((("spec", "ingress", index, "ports"), rule.ports) for index, rule in enumerate(spec.ingress)),
            *((("spec", "egress", index, "ports"), rule.ports) for index, rule in enumerate(spec.egress)),
        )
        for field, ports in lists:
            for index, port in enumerate(ports):
                if port.endPort is not None and port.endPort == port.port:
                    yield finding(
                        "end-port-equals-port",
                        policy,
                        (*field, index),
                        f"endPort is {port.endPort}, as port is: this range is one port",
                        "remove endPort, or write the last port of the range",
                        field=(*field, index, "endPort"),
                    )


def _rule(
    ref: RuleRef, namespace: str, peers: Sequence[NetworkPolicyPeer], ports: Sequence[NetworkPolicyPort]
) -> CompiledRule:
    return CompiledRule(
        ref,
        "Accept",
        tuple([_peer(peer, namespace) for peer in peers]) or None,
        tuple(map(_port, ports)) or None,
        _fields(PEERS_FIELD[ref.direction], len(peers)),
        _fields("ports", len(ports)),
    )


@cache
def _fields(name: str, count: int) -> tuple[FieldPath, ...]:
    """The fields of a list's items: shared by all rules with as many."""
    return tuple((name, index) for index in range(count))


def _peer(peer: NetworkPolicyPeer, namespace: str) -> Peer:
    if peer.ipBlock is not None:
        return Block(peer.ipBlock.cidr, peer.ipBlock.except_)
    where = peer.namespaceSelector if peer.namespaceSelector is not None else namespace
    return PodSelectorTerm(where, peer.podSelector or EVERYTHING)


def _port(port: NetworkPolicyPort) -> Port:
    if isinstance(port.port, str):
        return PortName(port.port, port.protocol)
    if port.port is None:
        return PortSpan(port.protocol)
    return PortSpan(port.protocol, port.port, port.endPort or port.port)
