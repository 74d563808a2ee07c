"""How ClusterNetworkPolicies are compiled: where each part stands, and what a newer API has added."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.selector import LabelSelector
from percale.policy.compiled_policy import CompiledRule
from percale.policy.kinds.cluster_network_policy import ClusterNetworkPolicyKind
from percale.policy.rule_terms import Block, DomainTerm, PodSelectorTerm, PortName, PortSpan

NEWER: list[dict[str, Any]] = [{"gre": {}}, {"tcp": {"flags": "SYN"}}, {"udp": {"destinationPort": {"list": [1, 2]}}}]


def compiled(**rule: Any) -> CompiledRule:
    """The egress rule of a policy."""
    spec = {"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}, "egress": [{"action": "Accept", **rule}]}
    policy = msgspec.convert({"metadata": {"name": "c"}, "spec": spec}, ClusterNetworkPolicy)
    (found,) = ClusterNetworkPolicyKind().compile(policy).egress
    return found


def test_peers_and_ports_have_their_fields() -> None:
    rule = compiled(
        to=[
            {"networks": ["192.0.2.0/24", "2001:db8::/32"]},
            {"planets": {}},
            {"pods": {"podSelector": {}}},
            {"domainNames": ["Example.org."]},
        ],
        protocols=[NEWER[0], {"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "http"}],
    )
    assert list(rule.placed_peers) == [
        (("spec", "egress", 0, "to", 0, "networks", 0), Block("192.0.2.0/24")),
        (("spec", "egress", 0, "to", 0, "networks", 1), Block("2001:db8::/32")),
        (("spec", "egress", 0, "to", 2, "pods"), PodSelectorTerm(LabelSelector())),
        (("spec", "egress", 0, "to", 3, "domainNames", 0), DomainTerm("example.org")),
    ]
    assert list(rule.placed_ports) == [
        (("spec", "egress", 0, "protocols", 1), PortSpan("TCP", 80, 80)),
        (("spec", "egress", 0, "protocols", 2), PortName("http")),
    ]
    assert rule.unknown_fields == (("to", 1), ("protocols", 0))


@pytest.mark.parametrize("protocol", NEWER)
def test_what_a_newer_api_has_added_opens_nothing_and_closes_all(protocol: dict[str, Any]) -> None:
    known = {"to": [{"networks": ["192.0.2.0/24"]}], "protocols": [protocol]}
    assert compiled(**known).ports == compiled(**known, action="Pass").ports == ()
    closing = compiled(**known, action="Deny")
    assert (closing.peers, closing.ports) == ((Block("192.0.2.0/24"),), None)
    unknown_peer = {
        "to": [{"planets": {}}, {"networks": ["192.0.2.0/24"]}],
        "protocols": [{"destinationNamedPort": "a"}],
    }
    assert compiled(**unknown_peer).peers == (Block("192.0.2.0/24"),)
    assert compiled(**unknown_peer, action="Deny").peers is None
