"""`domainNames` of a ClusterNetworkPolicy: one name, however it is spelled."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec

from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.pod import Pod
from percale.policy.evaluator import Evaluator
from percale.policy.verdict import Flow

POD, DOCS = "10.244.1.7", "203.0.113.7"


def allowed(evaluator: Evaluator) -> bool:
    client, server = (evaluator.flow_end(ip_address(each).packed) for each in (POD, DOCS))
    return evaluator.evaluate(Flow(client, server, "TCP", 443)).allowed


def only_to(name: str, *names: str) -> ClusterNetworkPolicy:
    accepting = {"action": "Accept", "to": [{"domainNames": names}]}
    denying = {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [accepting, denying]}
    return msgspec.convert({"metadata": {"name": name}, "spec": spec}, ClusterNetworkPolicy)


def test_capitals_and_a_last_dot_make_no_other_name() -> None:
    meta, status = {"name": "p", "namespace": "x"}, {"phase": "Running", "podIP": POD}
    pod = msgspec.convert({"metadata": meta, "spec": {"containers": [{"name": "c"}]}, "status": status}, Pod)
    evaluator = Evaluator([pod, only_to("names", "Docs.Example.org.", "docs.example.org")])
    assert evaluator.domains == {"docs.example.org"}
    assert not allowed(evaluator)
    assert evaluator.set_resolved_names({"docs.example.org": frozenset({ip_address(DOCS).packed})}).resolved_names
    assert allowed(evaluator)
    evaluator.put(only_to("names", "*.EXAMPLE.org."))
    assert allowed(evaluator)
