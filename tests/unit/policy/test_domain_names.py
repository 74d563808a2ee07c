"""`domainNames` of a ClusterNetworkPolicy: one name, however it is spelled."""

from __future__ import annotations

from ipaddress import ip_address

from tests import builders
from tests.builders import cluster_policy

from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.policy.evaluator import Evaluator
from percale.policy.verdict import Flow

POD, DOCS = "10.244.1.7", "203.0.113.7"


def allowed(evaluator: Evaluator) -> bool:
    client, server = (evaluator.flow_end(ip_address(each).packed) for each in (POD, DOCS))
    return evaluator.evaluate(Flow(client, server, "TCP", 443)).allowed


def only_to(name: str, *names: str) -> ClusterNetworkPolicy:
    accepting = {"action": "Accept", "to": [{"domainNames": names}]}
    denying = {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}
    return cluster_policy(name, egress=[accepting, denying])


def test_capitals_and_a_last_dot_make_no_other_name() -> None:
    evaluator = Evaluator([builders.pod("p", POD), only_to("names", "Docs.Example.org.", "docs.example.org")])
    assert evaluator.domains == {"docs.example.org"}
    assert not allowed(evaluator)
    assert evaluator.set_resolved_names({"docs.example.org": frozenset({ip_address(DOCS).packed})}).resolved_names
    assert allowed(evaluator)
    evaluator.put(only_to("names", "*.EXAMPLE.org."))
    assert allowed(evaluator)
