"""What a policy's author learns of Services and namespaces: ports and addresses that only a Service has, names with slips."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from percale.model.manifest.decode import decode_manifest
from percale.policy.lint.linter import lint, lint_services

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n"
WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, ports: [{containerPort: 8080, name: http}]}]}
---
"""
SILENT = WEB.replace(", ports: [{containerPort: 8080, name: http}]", "")
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.3.4, selector: {app: web}, ports: [{name: front, port: 80, targetPort: 8080}]}
---
"""
BY_NAME = SERVICE.replace("targetPort: 8080", "targetPort: http")
CLIENT = (
    "{apiVersion: v1, kind: Pod, metadata: {name: c, namespace: shop, labels: {app: c}}, spec: {containers: []}}\n---\n"
)


def said(manifests: str, *, cidrs: str = "", services: str = "") -> list[str]:
    found = decode_manifest(manifests.encode(), "a.yaml")
    pods, cluster_ips = ([ip_network(each) for each in text.split()] for text in (cidrs, services))
    return [str(each) for each in lint(found.entries, pods, cluster_ips, found.skipped)]


def policy(spec: str, *, namespace: str = "shop", selects: str = "{app: web}") -> str:
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: p, namespace: {namespace}}}\n"
        f"spec: {{podSelector: {{matchLabels: {selects}}}, {spec}}}\n"
    )


ANY = "ingress: [{ports: [{port: 80}]}]"
OF_PODS = "80 is the port of Service shop/web, and policies see that of its pods, {0} (write port: {0})"
TO_WEB = "{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}"
DNS = "{ports: [{port: 53, protocol: UDP}]}"


@pytest.mark.parametrize(
    ("cluster", "rules", "target"),
    [
        (WEB + SERVICE, ANY, "8080"),
        (SILENT + SERVICE, ANY, "8080"),  # declares no ports
        (WEB + BY_NAME, ANY, "http"),
        (SILENT + SERVICE, f"egress: [{DNS}, {TO_WEB}]", "8080"),
    ],
)  # fmt: skip
def test_the_port_of_a_service(cluster: str, rules: str, target: str) -> None:
    (finding,) = said(cluster + policy(rules))
    assert finding.startswith("warning: np:shop/p#")
    assert finding.endswith(OF_PODS.format(target))


def test_the_name_of_a_services_port() -> None:
    assert said(WEB + BY_NAME + policy("ingress: [{ports: [{port: front}]}]")) == [
        'warning: np:shop/p#ingress[0].ports[0]: "front" is the port of Service shop/web, and policies see that of its pods, '
        "http (write port: http)"
    ]


@pytest.mark.parametrize(
    "manifests",
    [
        WEB + SERVICE + policy("ingress: [{ports: [{port: 8080}]}]"),
        WEB + BY_NAME + policy("ingress: [{ports: [{port: http}]}]"),
        WEB + SERVICE + policy("ingress: [{ports: [{port: 80}, {port: 8080}]}]"),
        WEB + BY_NAME + policy("ingress: [{ports: [{port: 80}, {port: http}]}]"),
        WEB + SERVICE + policy("ingress: [{ports: [{port: 80, endPort: 9000}]}]"),
        WEB.replace("8080", "80") + SERVICE.replace(", targetPort: 8080", "") + policy(ANY),
        SILENT + SERVICE + CLIENT + policy(ANY, selects="{}"),  # the client may listen on 80
        SILENT + SERVICE.replace("clusterIP: 10.96.3.4", "clusterIP: None") + policy(ANY),
        SILENT + SERVICE + SERVICE.replace("name: web,", "name: o,").replace("8080", "80") + policy(ANY),
        SILENT + SERVICE + policy("ingress: [{ports: [{port: 80, protocol: UDP}]}]"),
    ],
)
def test_ports_that_pods_have_or_may_have(manifests: str) -> None:
    assert not [line for line in said(manifests) if "port of Service" in line]


@pytest.mark.parametrize(
    ("service", "hint"),
    [
        (SERVICE.replace("{app: web}", "{app: wbe}"), "did you mean app=web?"),
        (SERVICE.replace("{app: web}", "{app: shop}"), "the pods there have app: web"),
        (SERVICE.replace("namespace: shop", "namespace: default"), "pods with these labels are in namespace shop"),
    ],
)
def test_a_service_that_selects_nothing(service: str, hint: str) -> None:
    found = decode_manifest((WEB + service).encode(), "a.yaml")
    namespace = found.entries[1].object.metadata.namespace
    what = f"its selector selects no pod of namespace {namespace}: it has no endpoints"
    expected = f"warning: Service {namespace}/web: {what} ({hint})"
    assert said(WEB + service) == [expected]
    (finding,) = lint_services(found.entries, found.skipped)
    assert (str(finding), finding.code, finding.field) == (expected, "selects-nothing", ("spec", "selector"))


OPERATOR = "---\napiVersion: monitoring.coreos.com/v1\nkind: Alertmanager\nmetadata: {name: main, namespace: shop}\n"


@pytest.mark.parametrize(
    "manifests",
    [
        WEB + SERVICE,
        SERVICE,  # no pods are given at all
        WEB + SERVICE.replace("selector: {app: web}, ", ""),
        WEB + SERVICE.replace("clusterIP: 10.96.3.4, selector: {app: web}", "type: ExternalName, selector: {a: b}"),
        WEB.replace("{containers", "{hostNetwork: true, containers") + SERVICE,
        WEB + SERVICE.replace("shop", "monitoring").replace("app: web", "app: grafana"),  # whose pods come from elsewhere
        WEB + SERVICE.replace("app: web", "app: alertmanager") + OPERATOR,
        WEB + SERVICE.replace("app: web", "instance: main") + OPERATOR,
        WEB + policy("ingress: [{}]", selects="{instance: main}") + OPERATOR,
    ],
)  # fmt: skip
def test_services_that_have_pods_or_may_have(manifests: str) -> None:
    assert said(manifests) == []


def test_an_operator_makes_no_other_pods() -> None:
    assert len(said(WEB + SERVICE.replace("app: web", "app: wbe") + OPERATOR)) == 1


def block(cidr: str, direction: str = "egress") -> str:
    peers = "to" if direction == "egress" else "from"
    return policy(f"policyTypes: [], {direction}: [{{{peers}: [{{ipBlock: {{cidr: {cidr}}}}}]}}]", selects="{}")


OF_SERVICE = (
    "{0} holds the cluster IP 10.96.3.4 of Service shop/web, and policies see the addresses of pods instead "
    "(select its pods: they have app: web)"
)
OF_NETWORK = "{0} holds cluster IPs, and policies see the addresses of pods instead (select the pods of the Service)"
OF_API_SERVER = (
    "{0} holds the API server's cluster IP, and policies see the addresses of pods instead "
    "(write its own addresses and port, as `kubectl get endpoints kubernetes` shows them)"
)


@pytest.mark.parametrize(
    ("manifests", "services", "expected"),
    [
        (SERVICE + block("10.96.3.4/32"), "", OF_SERVICE.format("10.96.3.4/32")),
        (
            SERVICE.replace("selector: {app: web}, ", "") + block("10.96.3.4/32"),
            "",
            OF_SERVICE.format("10.96.3.4/32").replace(
                "select its pods: they have app: web", "write the addresses of its endpoints"
            ),
        ),
        (SERVICE + block("10.96.0.0/16"), "", OF_SERVICE.format("10.96.0.0/16")),
        (SERVICE + block("10.96.3.4/32", "ingress"), "", OF_SERVICE.format("10.96.3.4/32")),
        (block("10.200.1.0/24"), "10.200.0.0/16", OF_NETWORK.format("10.200.1.0/24")),
        (block("10.96.0.0/12"), "", OF_NETWORK.format("10.96.0.0/12")),
        (block("10.96.0.1/32"), "", OF_API_SERVER.format("10.96.0.1/32")),
        (block("10.200.0.1/32"), "10.200.0.0/16", OF_API_SERVER.format("10.200.0.1/32")),
        (block("10.43.0.10/32"), "", OF_NETWORK.format("10.43.0.10/32")),
    ],
)
def test_a_block_of_cluster_ips(manifests: str, services: str, expected: str) -> None:
    assert [line.split("]: ")[-1] for line in said(manifests, services=services) if "names:" not in line] == [expected]


@pytest.mark.parametrize(
    ("manifests", "services"),
    [
        (SERVICE + block("10.0.0.0/8"), ""),
        (SERVICE + block("0.0.0.0/0"), ""),
        (SERVICE + block("10.97.0.0/16"), ""),
        (block("10.100.0.0/16"), ""),  # the office's, perhaps
        (block("10.96.0.1/32"), "10.200.0.0/16"),
        (block("10.96.0.0/12, except: [10.96.0.0/13]"), "10.200.0.0/16"),
        (SERVICE + block("10.96.0.0/12, except: [10.96.3.0/24]"), "10.200.0.0/16"),
    ],
)
def test_blocks_of_something_else(manifests: str, services: str) -> None:
    assert not [line for line in said(manifests, services=services) if "cluster IP" in line]


@pytest.mark.parametrize(
    ("manifests", "where", "meant"),
    [
        (NAMESPACE + policy("ingress: [{}]", namespace="shpo"), "np:shpo/p", "shop"),
        (WEB + policy("ingress: [{}]", namespace="shops"), "np:shops/p", "shop"),
        (NAMESPACE + WEB.replace("namespace: shop", "namespace: shoop"), "Deployment shoop/web", "shop"),
        (policy("ingress: [{}]", namespace="kube-sytem"), "np:kube-sytem/p", "kube-system"),
    ],
)  # fmt: skip
def test_a_namespace_with_a_slip(manifests: str, where: str, meant: str) -> None:
    namespace = where.rsplit(maxsplit=1)[-1].removeprefix("np:").split("/")[0]
    expected = f"warning: {where}: nothing defines the namespace {namespace} (did you mean {meant}?)"
    assert expected in said(manifests)


def test_another_namespace_that_no_manifest_defines() -> None:
    assert said(NAMESPACE + policy("ingress: [{}]", namespace="office", selects="{}")) == [
        "info: np:office/p: no manifest defines the namespace office (there are shop)"
    ]


@pytest.mark.parametrize(
    ("defined", "used"),
    [
        ("shop", "shop"),
        ("team-a", "team-b"),
        ("shop", "shop2"),
        ("shop1", "shop2"),
        ("dev", "dex"),
        ("shop", "default"),
    ],
)
def test_namespaces_that_are_two(defined: str, used: str) -> None:
    manifests = NAMESPACE.replace("shop", defined) + policy("ingress: [{}]", namespace=used, selects="{}")
    assert not [line for line in said(manifests) if line.startswith("warning")]
    assert said(policy("ingress: [{}]", namespace="shpo", selects="{}")) == []  # nothing is known of namespaces
