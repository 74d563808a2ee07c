"""What people get wrong in policies that are valid: each remark where it belongs, and none where all is well."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from percale.model.addresses import IPNetwork
from percale.model.manifest.decode import decode_manifest
from percale.model.manifest.written_objects import WrittenObjects
from percale.policy.lint.linter import lint

CLUSTER = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: red}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, ports: [{containerPort: 8080, name: http}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, ports: [{containerPort: 53, name: dns, protocol: UDP}, {containerPort: 5432}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: shop, labels: {app: agent}}
spec: {hostNetwork: true, containers: [{name: c}]}
---
"""
POLICY = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n"
TO_DNS = "{to: [{namespaceSelector: {}}], ports: [{protocol: UDP, port: 53}]}"


def said(text: str, *networks: str, cluster: str = CLUSTER) -> list[str]:
    """`line: remark` of each; lines count from the first line of `text`."""
    found = decode_manifest((cluster + text).encode(), "a.yaml").entries
    cidrs: list[IPNetwork] = [ip_network(each) for each in networks]
    written = WrittenObjects([("a.yaml", cluster + text)])
    return [f"{written.line(each.source, each.field) - cluster.count(chr(10))}: {each}" for each in lint(found, cidrs)]


def policy(spec: str) -> str:
    return POLICY + "".join(f"  {line}\n" for line in spec.splitlines())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("podSelector: {matchLabels: {app: wbe}}",
         "5: warning: np:shop/p#podSelector: podSelector selects no pod of namespace shop "
         "(did you mean app=web?)"),
        ("podSelector: {matchLabels: {app: agent}}",  # a pod in its node's network
         "5: warning: np:shop/p#podSelector: podSelector selects no pod of namespace shop "
         "(the pods there have app: web, app: db)"),
        ("ingress:\n- from:\n  - podSelector:\n      matchLabels: {app: x}\n",
         "7: warning: np:shop/p#ingress[0].from[0]: podSelector selects no pod of namespace shop "
         "(the pods there have app: web, app: db)"),
        ("ingress:\n- from:\n  - namespaceSelector: {matchLabels: {team: blue}}\n    podSelector: {}",
         "7: warning: np:shop/p#ingress[0].from[0]: namespaceSelector selects no namespace "
         "(the namespaces here have team: red)"),
        ("ingress:\n- from:\n  - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shoop}}",
         "7: warning: np:shop/p#ingress[0].from[0]: namespaceSelector selects no namespace "
         "(did you mean shop?)"),
        ("ingress:\n- from:\n  - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: office}}",
         "7: warning: np:shop/p#ingress[0].from[0]: namespaceSelector selects no namespace "
         "(the namespaces here have the names default, kube-node-lease, kube-public, kube-system, shop)"),
        ("ingress: [{ports: [{port: web}]}]",
         '5: warning: np:shop/p#ingress[0].ports[0]: no pod that it means has a port named "web" (TCP) '
         "(the pods name http, dns)"),
        ("ingress: [{ports: [{port: dns}]}]",
         '5: warning: np:shop/p#ingress[0].ports[0]: the port named "dns" is UDP, not TCP (write protocol: UDP)'),
        (f"egress:\n- {TO_DNS}\n- to: [{{podSelector: {{matchLabels: {{app: db}}}}}}]\n  ports: [{{port: http}}]",
         '8: warning: np:shop/p#egress[1].ports[0]: no pod that it means has a port named "http" (TCP) '
         "(the pods name dns)"),
        (f"egress:\n- {TO_DNS}\n- to: [{{ipBlock: {{cidr: 192.0.2.0/24}}}}]\n  ports: [{{port: http}}]",
         '8: warning: np:shop/p#egress[1].ports[0]: only pods have a port named "http", addresses outside the cluster '
         "have none (write the number)"),
        ("podSelector: {matchLabels: {app: web}}\ningress: [{ports: [{port: 80}]}]",
         "6: info: np:shop/p#ingress[0].ports[0]: no pod that it means declares 80/TCP (the pods declare 8080/TCP)"),
        ("ingress:\n- from:\n  - ipBlock: {cidr: 10.0.0.0/8}",
         "7: warning: np:shop/p#ingress[0].from[0]: 10.0.0.0/8 holds the pod network 10.244.0.0/16: it allows pods, "
         "whatever their labels (add 10.244.0.0/16 to except)"),
        ("ingress:\n- from:\n  - ipBlock: {cidr: 10.244.3.0/24}",
         "7: warning: np:shop/p#ingress[0].from[0]: 10.244.3.0/24 lies within the pod network 10.244.0.0/16, whose "
         "addresses move from pod to pod (use podSelector and namespaceSelector)"),
        ("policyTypes: [Egress]\ningress:\n- {}",
         "6: warning: np:shop/p#ingress: its rules have no effect: policyTypes does not list Ingress, so ingress stays "
         "open (add Ingress to policyTypes, or remove the section)"),
        (f"policyTypes: [Ingress]\negress: [{TO_DNS}]",
         "6: warning: np:shop/p#egress: its rules have no effect: policyTypes does not list Egress, so egress stays "
         "open (add Egress to policyTypes, or remove the section)"),
        ("ingress:\n- ports:\n  - port: 8080\n    endPort: 8080",
         "8: warning: np:shop/p#ingress[0].ports[0]: endPort is 8080, as port is: this range is one port "
         "(remove endPort, or write the last port of the range)"),
        ("podSelector: {matchLabels: {app: web}}\negress:\n- to: [{podSelector: {matchLabels: {app: db}}}]\n"
         "  ports: [{port: 5432}]",
         "6: warning: np:shop/p#egress: the pods that it selects cannot ask for names: nothing allows them UDP 53 to the "
         "cluster's DNS (allow UDP and TCP 53 to the namespace with the label kubernetes.io/metadata.name: kube-system)"),
        ("ingress:\n- from: [{podSelector: {}}]\n- from: [{podSelector: {matchLabels: {app: db}}}]\n  ports: [{port: 8080}]",
         "7: warning: np:shop/p#ingress[1]: np:shop/p#ingress[0] already allows all that this rule allows "
         "(remove the rule, or make the other one narrower)"),
    ],
)  # fmt: skip
def test_one_thing_wrong(spec: str, expected: str) -> None:
    assert said(policy(spec), "10.244.0.0/16") == [expected]


@pytest.mark.parametrize(
    "spec",
    [
        "policyTypes: [Ingress, Egress]",
        "ingress: [{}]",
        "policyTypes: [Egress]",
        "egress: [{}]",
        "podSelector: {matchLabels: {app: web}}\ningress: [{ports: [{port: http}, {port: 8080}]}]",
        "ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {app: db}}}]}]",
        "ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}},"
        " podSelector: {matchLabels: {k8s-app: any}}}]}]",
        "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.240.0.0/12]}}, {ipBlock: {cidr: 192.0.2.0/24}}]}]",
        "ingress: [{from: [{ipBlock: {cidr: '::/0'}}]}]",
        f"egress: [{TO_DNS}, {{to: [{{podSelector: {{matchLabels: {{app: db}}}}}}], ports: [{{port: 5432}}]}}]",
        "egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]",  # which answers on UDP 53
        "egress: [{to: [{namespaceSelector: {}}]}]",
        "egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.244.0.0/16]}}]}]",
        "egress: [{to: [{ipBlock: {cidr: 192.168.7.0/24}}], ports: [{port: 53, protocol: UDP}]}]",
        "ingress: [{from: [{podSelector: {}}], ports: [{port: 8080}]}, {from: [{podSelector: {matchLabels: {app: db}}}]}]",
    ],
)  # fmt: skip
def test_nothing_wrong(spec: str) -> None:
    assert said(policy(spec), "10.244.0.0/16") == []


def test_a_policy_in_the_wrong_namespace() -> None:
    text = policy("podSelector: {matchLabels: {app: web}}").replace(", namespace: shop", "")
    assert said(text) == [
        "5: warning: np:default/p#podSelector: podSelector selects no pod of namespace default "
        "(pods with these labels are in namespace shop)"
    ]


def test_without_pods_nothing_is_said_of_selectors() -> None:
    text = policy(
        "podSelector: {matchLabels: {app: web}}\ningress: [{from: [{namespaceSelector: {matchLabels: {a: b}}}]}]"
    )
    assert said(text, cluster="") == []


@pytest.mark.parametrize(
    ("manifest", "holds"),
    [
        ('apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {net-conf.json: \'{"Network": "10.9.0.0/16"}\'}\n',
         "10.9.0.0/16"),
        ("apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec: {podCIDR: 10.8.0.0/24}\n---\n"
         "apiVersion: v1\nkind: Node\nmetadata: {name: b}\nspec: {podCIDR: 10.8.1.0/24}\n", "10.8.0.0/23"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\nstatus: {podIP: 10.7.0.9}\n", "10.7.0.9/32"),
    ],
)  # fmt: skip
def test_where_the_pod_network_is_known_from(manifest: str, holds: str) -> None:
    text = manifest + "---\n" + policy("ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]")
    (finding,) = said(text, cluster="")
    assert f"10.0.0.0/8 holds the pod network {holds}: " in finding


def test_dns_is_allowed_by_another_policy() -> None:
    out = "policyTypes: [Egress]\npodSelector: {matchLabels: {app: web}}\negress: [{to: [{podSelector: {}}], ports: [{port: 1}]}]"
    dns = f"egress: [{TO_DNS}]\npolicyTypes: [Egress]"
    first = policy(out)
    other = policy(dns).replace("name: p,", "name: dns,")
    narrow = policy(dns + "\npodSelector: {matchLabels: {app: db}}").replace("name: p,", "name: dns,")
    for cluster in (CLUSTER, ""):
        assert not any("names" in line for line in said(f"{first}---\n{other}", cluster=cluster))
        assert any("cannot ask for names" in line for line in said(f"{first}---\n{narrow}", cluster=cluster))


def test_identical_policies_are_named_once() -> None:
    text = policy("ingress: [{from: [{podSelector: {}}]}]")
    assert said(f"{text}---\n{text.replace('name: p,', 'name: q,')}") == [
        "10: warning: np:shop/q: it says the same as np:shop/p (a.yaml:25) (remove one of them)"
    ]


def test_a_rule_within_another_policys() -> None:
    wide = policy("ingress: [{from: [{namespaceSelector: {}}]}]")
    narrow = policy(
        "podSelector: {matchLabels: {app: web}}\ningress: [{from: [{podSelector: {}}], ports: [{port: 8080}]}]"
    )
    text = f"{wide}---\n{narrow.replace('name: p,', 'name: q,')}"
    assert said(text) == [
        "12: warning: np:shop/q#ingress[0]: np:shop/p#ingress[0] already allows all that this rule allows "
        "(remove the rule, or make the other one narrower)"
    ]
    elsewhere = narrow.replace("name: p,", "name: q,").replace("shop", "other")
    assert not any("already" in line for line in said(f"{wide}---\n{elsewhere}", cluster=""))


CLUSTER_POLICY = """apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: c}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
"""


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("ingress:\n  - {action: Deny, from: [{namespaces: {}}]}\n"
         "  - {action: Accept, from: [{namespaces: {matchLabels: {a: b}}}]}",
         ["10: warning: cnp:c#ingress[1].from[0]: namespaces selects no namespace (the namespaces here have team: red)",
          "10: warning: cnp:c#ingress[1]: cnp:c#ingress[0] comes first and matches all that this rule matches (Deny) "
          "(remove the rule, or make the other one narrower)"]),
        ("ingress:\n  - {action: Accept, from: [{planets: {}}]}",
         ["9: warning: cnp:c#ingress[0].from[0]: none of its fields is known here, so the rule matches nothing "
          "(check the spelling, or write it with fields of v1alpha2)"]),
        ("ingress:\n  - {action: Deny, from: [{planets: {}}]}\n  - {action: Deny, from: [{namespaces: {}}]}",
         ["9: warning: cnp:c#ingress[0].from[0]: none of its fields is known here, so the rule denies everything "
          "(check the spelling, or write it with fields of v1alpha2)"]),
        ("egress:\n  - action: Accept\n    to:\n    - networks:\n      - 192.0.2.0/24\n      - 10.0.0.0/8",
         ["13: warning: cnp:c#egress[0].to[0].networks[1]: 10.0.0.0/8 holds the pod network 10.244.0.0/16: it allows "
          "pods, whatever their labels (pass pods in a rule before it)"]),
        ("egress:\n  - {action: Deny, to: [{networks: [10.0.0.0/8]}]}", []),
        ("egress:\n  - action: Deny\n    to: [{namespaces: {matchLabels: {team: red}}}]\n"
         "    protocols: [{destinationNamedPort: nope}]",
         ['11: warning: cnp:c#egress[0].protocols[0]: no pod that it means has a port named "nope" '
          "(the pods name http, dns)"]),
    ],
)  # fmt: skip
def test_cluster_policies(rules: str, expected: list[str]) -> None:

    assert said(f"{CLUSTER_POLICY}  {rules}\n", "10.244.0.0/16") == expected
