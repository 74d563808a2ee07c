"""A ClusterNetworkPolicy that its CustomResourceDefinition would refuse, and what a newer API may have that we do not know."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
import yaml

from percale.errors import BadManifest
from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.manifest.decode import decode_manifest
from percale.model.manifest.encode import to_json
from percale.model.validation.validators import field_errors
from percale.objects.kind_names import kind_of

GOOD = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  ingress:
  - name: a
    action: Deny
    from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}}]
  egress:
  - action: Accept
    to: [{domainNames: ["*.example.org"]}, {networks: ["10.0.0.0/8", "fd00::/8"]}, {nodes: {}}]
    protocols:
    - tcp: {destinationPort: {number: 443}}
    - udp: {destinationPort: {range: {start: 1, end: 53}}}
"""


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with another value at `spec.…`; the value `del` takes the field out."""
    policy: dict[str, Any] = deepcopy(yaml.safe_load(GOOD))
    here: Any = policy
    *way, last = (int(step) if step.isdecimal() else step for step in path.split("."))
    for step in way:
        here = here[step]
    if value == "del":
        del here[last]
    else:
        here[last] = value
    return policy


def wrong(path: str, value: Any) -> list[str]:
    return [str(error) for error in field_errors(ClusterNetworkPolicy, changed(path, value))]


def test_a_good_one_is_decoded_and_written() -> None:
    (policy,) = decode_manifest(GOOD.encode(), "a.yaml").objects
    assert isinstance(policy, ClusterNetworkPolicy)
    assert policy.metadata.namespace is None
    assert policy.spec.egress[0].to[1].networks == ("10.0.0.0/8", "fd00::/8")
    assert decode_manifest(to_json(policy), "a.json").objects == (policy,)
    assert kind_of("cnp") is kind_of("clusternetworkpolicies") is ClusterNetworkPolicy


def test_one_of_v1beta1_is_the_same() -> None:
    newer = GOOD.replace("v1alpha2", "v1beta1")
    assert decode_manifest(newer.encode(), "a.yaml").objects == decode_manifest(GOOD.encode(), "a.yaml").objects


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.tier", "admin", 'spec.tier: Unsupported value: "admin": supported values: "Admin", "Baseline"'),
        ("spec.tier", "del", "spec.tier: Required value"),
        ("spec.priority", -1,
         "spec.priority: Invalid value: -1: spec.priority in body should be greater than or equal to 0"),
        ("spec.priority", 1001,
         "spec.priority: Invalid value: 1001: spec.priority in body should be less than or equal to 1000"),
        ("spec.priority", "del", "spec.priority: Required value"),
        ("spec.subject", {}, "spec.subject: Invalid value: 0: spec.subject in body should have at least 1 properties"),
        ("spec.subject", {"planets": {}},
         "spec.subject: Invalid value: 0: spec.subject in body should have at least 1 properties"),
        ("spec.subject", {"namespaces": {}, "pods": {"podSelector": {}}},
         "spec.subject: Too many: 2: must have at most 1 items"),
        ("spec.subject", {"pods": {"namespaceSelector": {}}}, "spec.subject.pods.podSelector: Required value"),
        ("spec.subject", "del", "spec.subject: Required value"),
        ("spec.ingress.0.action", "Allow",
         'spec.ingress[0].action: Unsupported value: "Allow": supported values: "Accept", "Deny", "Pass"'),
        ("spec.ingress.0.name", "a" * 101, "spec.ingress[0].name: Too long: may not be longer than 100"),
        ("spec.ingress.0.from", [],
         "spec.ingress[0].from: Invalid value: 0: spec.ingress[0].from in body should have at least 1 items"),
        ("spec.ingress.0.from", "del", "spec.ingress[0].from: Required value"),
        ("spec.ingress.0.from", [{"namespaces": {}}] * 26, "spec.ingress[0].from: Too many: 26: must have at most 25 items"),
        ("spec.ingress.0.from.0", {},
         "spec.ingress[0].from[0]: Invalid value: 0: spec.ingress[0].from[0] in body should have at least 1 properties"),
        ("spec.ingress.0.from.0", {"namespaces": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
         "spec.ingress[0].from[0].namespaces.matchExpressions[0].values: Required value: "
         "must be specified when operator is 'In' or 'NotIn'"),
        ("spec.ingress", [{"action": "Deny", "from": [{"namespaces": {}}]}] * 26,
         "spec.ingress: Too many: 26: must have at most 25 items"),
        ("spec.egress.0.action", "Deny",
         "spec.egress[0].to[0].domainNames: Forbidden: may only be specified when action is Accept"),
        ("spec.egress.0.to.1.networks", ["10.0.0.0"],
         'spec.egress[0].to[1].networks[0]: Invalid value: "10.0.0.0": Invalid CIDR format provided'),
        ("spec.egress.0.to.1.networks", ["::/0", "::/0"], 'spec.egress[0].to[1].networks[1]: Duplicate value: "::/0"'),
        ("spec.egress.0.to.1.networks", [f"10.0.{part}.0/24" for part in range(26)],
         "spec.egress[0].to[1].networks: Too many: 26: must have at most 25 items"),
        ("spec.egress.0.to.1.networks", [],
         "spec.egress[0].to[1].networks: Invalid value: 0: spec.egress[0].to[1].networks in body should have at least 1 items"),
        ("spec.egress.0.protocols", [],
         "spec.egress[0].protocols: Invalid value: 0: spec.egress[0].protocols in body should have at least 1 items"),
        ("spec.egress.0.protocols", [{"destinationNamedPort": "web"}],
         'spec.egress[0]: Invalid value: "object": networks/nodes/domainNames peer cannot be set with namedPorts '
         "since there are no namedPorts for networks/nodes/domainNames"),
        ("spec.egress.0.protocols.0.tcp", {},
         "spec.egress[0].protocols[0].tcp: Invalid value: 0: "
         "spec.egress[0].protocols[0].tcp in body should have at least 1 properties"),
        ("spec.egress.0.protocols.0.udp", {"destinationPort": {"number": 1}},
         "spec.egress[0].protocols[0]: Too many: 2: must have at most 1 items"),
        ("spec.egress.0.protocols.0.tcp.destinationPort.number", 0,
         "spec.egress[0].protocols[0].tcp.destinationPort.number: Invalid value: 0: "
         "spec.egress[0].protocols[0].tcp.destinationPort.number in body should be greater than or equal to 1"),
        ("spec.egress.0.protocols.1.udp.destinationPort.range.start", 53,
         'spec.egress[0].protocols[1].udp.destinationPort.range: Invalid value: "object": Start port must be less than End port'),
        ("spec.egress.0.protocols.1.udp.destinationPort.range.end", "del",
         "spec.egress[0].protocols[1].udp.destinationPort.range.end: Required value"),
        ("metadata.name", "P", None),
    ],
)  # fmt: skip
def test_what_the_schema_refuses(path: str, value: Any, said: str | None) -> None:
    errors = wrong(path, value)
    if said is None:
        assert errors[0].startswith('metadata.name: Invalid value: "P": a lowercase RFC 1123 subdomain')
    else:
        assert errors == [said]
    for text, file in ((yaml.safe_dump(changed(path, value)), "a.yaml"), (json.dumps(changed(path, value)), "a.json")):
        with pytest.raises(BadManifest):
            decode_manifest(text.encode(), file)


@pytest.mark.parametrize("name", ["org", "*.*.org", "a*.org", "-a.org", "*", "a..org"])
def test_domain_names(name: str) -> None:
    (said,) = wrong("spec.egress.0.to.0.domainNames", [name])
    assert said.startswith(f'spec.egress[0].to[0].domainNames[0]: Invalid value: "{name}": spec.egress[0]')
    assert "in body should match '^" in said


def test_one_error_for_each_of_many() -> None:
    text = GOOD.replace("Admin", "Top").replace("priority: 10", "priority: 1001").replace("number: 443", "number: 0")
    with pytest.raises(BadManifest) as caught:
        decode_manifest(text.encode(), "a.yaml")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["a.yaml:6", "a.yaml:7", "a.yaml:17"]


@pytest.mark.parametrize("file", ["a.yaml", "a.json"])
def test_a_peer_of_a_newer_api_is_kept_as_one_without_fields(file: str) -> None:
    policy = changed("spec.egress.0.to.0", {"planets": {"mars": True}})
    policy["spec"]["egress"][0]["protocols"][0] = {"quic": {}}
    policy["spec"]["ingress"][0]["from"][0] = {"planets": {}}
    text = json.dumps(policy) if file == "a.json" else yaml.safe_dump(policy)
    (obj,) = decode_manifest(text.encode(), file).objects
    assert isinstance(obj, ClusterNetworkPolicy)
    (rule,) = obj.spec.egress
    assert [peer.known for peer in rule.to] == [False, True, True]
    assert [protocol.known for protocol in rule.protocols] == [False, True]
    assert not obj.spec.ingress[0].from_[0].known
