"""A NetworkPolicy that the API server would refuse: all that is wrong with it, with its words and our lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from percale.errors import BadManifest, BadManifests
from percale.model.manifest.decode import decode_manifest
from percale.model.networkpolicy import NetworkPolicy
from percale.model.validation.validators import field_errors

POLICY = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\nspec:\n"
LABEL = "and must start and end with an alphanumeric character"
KEY = (
    f"name part must consist of alphanumeric characters, '-', '_' or '.', {LABEL} "
    "(e.g. 'MyName', or 'my.name', or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def wrong(spec: dict[str, Any], metadata: dict[str, Any] | None = None) -> list[str]:
    """The errors' texts; runs of spaces count as one, as on a terminal."""
    errors = field_errors(NetworkPolicy, {"metadata": {"name": "p", **(metadata or {})}, "spec": spec})
    return [" ".join(str(error).split()) for error in errors]


def port(**fields: Any) -> dict[str, Any]:
    return {"ingress": [{"ports": [fields]}]}


def peer(**fields: Any) -> dict[str, Any]:
    return {"egress": [{}, {"to": [fields]}]}


def expression(**fields: Any) -> dict[str, Any]:
    return {"podSelector": {"matchExpressions": [fields]}}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"protocol": "HTTP"}, 'protocol: Unsupported value: "HTTP": supported values: "SCTP", "TCP", "UDP"'),
        ({"protocol": "tcp"}, 'protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"'),
        ({"port": 0}, "port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        ({"port": 65536}, "port: Invalid value: 65536: must be between 1 and 65535, inclusive"),
        ({"port": "a-very-long-name"}, 'port: Invalid value: "a-very-long-name": must be no more than 15 characters'),
        ({"port": "80"}, 'port: Invalid value: "80": must contain at least one letter (a-z)'),
        ({"port": "a--b"}, 'port: Invalid value: "a--b": must not contain consecutive hyphens'),
        ({"port": "-a"}, 'port: Invalid value: "-a": must not begin or end with a hyphen'),
        ({"port": "a_b"},
         'port: Invalid value: "a_b": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)'),
        ({"port": 80, "endPort": 79}, "endPort: Invalid value: 79: must be greater than or equal to port"),
        ({"port": 80, "endPort": 65536}, "endPort: Invalid value: 65536: must be between 1 and 65535, inclusive"),
        ({"endPort": 80}, "endPort: Invalid value: 80: may not be specified when port is not specified"),
        ({"port": "web", "endPort": 80}, "endPort: Invalid value: 80: may not be specified when port is non-numeric"),
    ],
)  # fmt: skip
def test_ports(fields: dict[str, Any], said: str) -> None:
    assert wrong(port(**fields)) == [f"spec.ingress[0].ports[0].{said}"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ": Required value: must specify a peer"),
        ({"podSelector": None}, ": Required value: must specify a peer"),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}},
         ": Forbidden: may not specify both ipBlock and another peer"),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}, "namespaceSelector": {}},
         ": Forbidden: may not specify both ipBlock and another peer"),
        ({"ipBlock": {}}, ".ipBlock.cidr: Required value"),
        *(({"ipBlock": {"cidr": cidr}},
           f'.ipBlock.cidr: Invalid value: "{cidr}": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)')
          for cidr in ("10.0.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0.0/255.0.0.0", "fe80::%eth0/64", "here/8")),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}},
         '.ipBlock.except[0]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)'),
        *(({"ipBlock": {"cidr": "10.0.0.0/8", "except": [part]}},
           f'.ipBlock.except[0]: Invalid value: "{part}": must be a strict subset of cidr')
          for part in ("11.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "fd00::/64")),
    ],
)  # fmt: skip
def test_peers(fields: dict[str, Any], said: str) -> None:
    assert wrong(peer(**fields)) == [f"spec.egress[1].to[0]{said}"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"key": "a", "operator": "In"}, "values: Required value: must be specified when operator is 'In' or 'NotIn'"),
        ({"key": "a", "operator": "NotIn", "values": []},
         "values: Required value: must be specified when operator is 'In' or 'NotIn'"),
        ({"key": "a", "operator": "Exists", "values": ["b"]},
         "values: Forbidden: may not be specified when operator is 'Exists' or 'DoesNotExist'"),
        ({"key": "a", "operator": "DoesNotExist", "values": ["b"]},
         "values: Forbidden: may not be specified when operator is 'Exists' or 'DoesNotExist'"),
        ({"key": "a", "operator": "Gt", "values": ["1"]}, 'operator: Invalid value: "Gt": not a valid selector operator'),
        ({"key": "a"}, 'operator: Invalid value: "": not a valid selector operator'),
        ({"key": "a b", "operator": "Exists"}, f'key: Invalid value: "a b": {KEY}'),
        ({"key": "/a", "operator": "Exists"}, 'key: Invalid value: "/a": prefix part must be non-empty'),
        ({"key": "x/" + "a" * 64, "operator": "Exists"},
         f'key: Invalid value: "x/{"a" * 64}": name part must be no more than 63 characters'),
    ],
)  # fmt: skip
def test_selectors(fields: dict[str, Any], said: str) -> None:
    assert wrong(expression(**fields)) == [f"spec.podSelector.matchExpressions[0].{said}"]


def test_labels() -> None:
    assert wrong({"podSelector": {"matchLabels": {"A_b/c": "ok"}}}) == [
        'spec.podSelector.matchLabels: Invalid value: "A_b/c": prefix part a lowercase RFC 1123 subdomain must consist of '
        f"lower case alphanumeric characters, '-' or '.', {LABEL} (e.g. 'example.com', regex used for validation is "
        "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    ]
    (said,) = wrong(peer(podSelector={"matchLabels": {"a": "x y"}}))
    assert said.startswith(
        'spec.egress[1].to[0].podSelector.matchLabels: Invalid value: "x y": a valid label must be an empty string or'
    )
    (said,) = wrong({}, {"labels": {"a/b/c": "d"}})
    assert said.startswith('metadata.labels: Invalid value: "a/b/c": a qualified name must consist of')
    assert said.endswith("with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")
    assert wrong({}, {"labels": {"Example.com/x": ""}, "annotations": {"Example.com/x": "any thing"}})[0].startswith(
        'metadata.labels: Invalid value: "Example.com/x": prefix part'
    )


def test_names() -> None:
    assert wrong({}, {"name": ""}) == ["metadata.name: Required value: name or generateName is required"]
    assert wrong({}, {"name": "Allow_All"})[0].startswith(
        'metadata.name: Invalid value: "Allow_All": a lowercase RFC 1123 subdomain must consist of'
    )
    assert wrong({}, {"name": "a" * 254}) == [
        f'metadata.name: Invalid value: "{"a" * 254}": must be no more than 253 characters'
    ]
    assert wrong({}, {"namespace": "a.b"}) == ['metadata.namespace: Invalid value: "a.b": must not contain dots']
    assert wrong({}, {"name": "a.b-c", "namespace": "a-b"}) == []


def test_policy_types() -> None:
    assert wrong({"policyTypes": ["ingress", "Egress"]}) == [
        'spec.policyTypes[0]: Unsupported value: "ingress": supported values: "Egress", "Ingress"'
    ]
    assert wrong({"policyTypes": ["Ingress", "Egress", "Ingress"]}) == [
        'spec.policyTypes: Invalid value: ["Ingress", "Egress", "Ingress"]: may not specify more than two policyTypes'
    ]
    assert wrong({"policyTypes": ["Ingress", "Ingress"]}) == []


def test_what_is_valid() -> None:
    assert wrong({}) == []
    assert wrong({"ingress": None, "egress": [], "podSelector": None}) == []
    assert wrong({"ingress": [{}, {"from": [], "ports": [{}]}]}) == []
    assert wrong(port(port=80, endPort=80)) == []
    assert wrong(peer(ipBlock={"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16"]})) == []
    assert wrong(peer(ipBlock={"cidr": "::/0", "except": ["fd00::/8"]})) == []
    assert wrong(expression(key="example.com/a", operator="NotIn", values=["", "b"])) == []


BAD = """
  policyTypes: [ingress]
  ingress:
  - ports:
    - protocol: TCP
      port: 80
      endPort: 79
    - port: 0
    from:
    - ipBlock:
        cidr: 10.0.0.0/8
        except:
        - 10.1.0.0/16
        - 11.0.0.0/16
    -
      podSelector: {matchLabels: {a: 5}}
"""
SAID = [
    '7: spec.policyTypes[0]: Unsupported value: "ingress": supported values: "Egress", "Ingress"; write Ingress',
    "12: spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to port",
    "13: spec.ingress[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
    '19: spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: "11.0.0.0/16": must be a strict subset of cidr',
]


def faults(text: str, file: str = "f.yaml") -> list[str]:
    with pytest.raises(BadManifest) as caught:
        decode_manifest(text.encode(), file)
    return list(caught.value.lines if isinstance(caught.value, BadManifests) else (str(caught.value),))


def test_all_errors_of_an_object_with_their_lines() -> None:
    assert faults(POLICY + BAD.replace("5", '"5"')) == [f"f.yaml:{line}" for line in SAID]


def test_a_value_of_the_wrong_type_among_them() -> None:
    only = POLICY + BAD.replace("[ingress]", "[Ingress]").replace("port: 0", "port: 1")
    assert faults(only) == [
        f"f.yaml:{SAID[1]}",
        f"f.yaml:{SAID[3]}",
        'f.yaml:21: spec.ingress[0].from[1].podSelector.matchLabels.a: expected a text, got 5; write "5" in quotes',
    ]


def test_all_errors_of_all_objects_of_a_file() -> None:
    other = POLICY + "  ingress: [{from: [{}]}]\n"
    good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
    text = f"{POLICY}  policyTypes: [x]\n---\n{good}---\n{other}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\n"
    assert faults(text) == [
        'f.yaml:6: spec.policyTypes[0]: Unsupported value: "x": supported values: "Egress", "Ingress"',
        "f.yaml:17: spec.ingress[0].from[0]: Required value: must specify a peer",
        "f.yaml:19: spec: missing",
    ]


@pytest.mark.parametrize("shape", ["object", "list", "kinds"])
def test_json_is_no_way_around(shape: str) -> None:
    policy = yaml.safe_load(POLICY + "  ingress: [{ports: [{port: 80, endPort: 79}]}]\n")
    items = {"items": [policy]}
    whole = {
        "object": policy,
        "list": {"apiVersion": "v1", "kind": "List", **items},
        "kinds": {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList", **items},
    }[shape]
    text = json.dumps(whole, indent=1)
    line = text[: text.index('"endPort"')].count("\n") + 1
    assert faults(text, "f.json") == [
        f"f.json:{line}: spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to port"
    ]


def test_a_port_in_quotes_says_what_to_type() -> None:
    assert faults(POLICY + '  ingress: [{ports: [{port: "8080"}]}]\n') == [
        'f.yaml:6: spec.ingress[0].ports[0].port: Invalid value: "8080": must contain at least one letter (a-z); '
        "write 8080 without quotes"
    ]


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"])
def test_selectors_of_workloads(kind: str) -> None:
    text = (
        f"apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: w}}\nspec:\n  selector:\n    matchExpressions:\n"
        "    - {key: a, operator: In}\n  template: {spec: {containers: []}}\n"
    )
    assert faults(text) == [
        "f.yaml:7: spec.selector.matchExpressions[0].values: Required value: "
        "must be specified when operator is 'In' or 'NotIn'"
    ]
