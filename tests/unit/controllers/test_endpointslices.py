"""EndpointSlices from a Service and its pods, and from Endpoints, as Kubernetes' controllers make them."""

from __future__ import annotations

from typing import Any

import pytest
from tests import builders
from tests.unit.service.build import build

from percale.controllers.endpointslices import endpoint_slices_for
from percale.controllers.offline import with_generated_slices
from percale.model.endpoints import (
    EndpointAddress,
    EndpointConditions,
    EndpointPort,
    Endpoints,
    EndpointSubset,
    ForNode,
    ForZone,
)
from percale.model.meta import ObjectMeta
from percale.model.pod import ContainerPort, Pod
from percale.model.service import Service
from percale.service.endpoints_mirroring import MAX_ENDPOINTS_PER_SUBSET, mirrored_slices


def pod(
    name: str,
    *ips: str,
    phase: str = "Running",
    leaving: bool = False,
    labels: dict[str, str] | None = None,
    **fields: Any,
) -> Pod:
    """In namespace ns1, of the Service, and Ready."""
    return builders.pod(
        name,
        *ips,
        labels={"app": "web"} if labels is None else labels,
        meta={"uid": f"uid-{name}", "deletionTimestamp": "2026-01-01T00:00:00Z" if leaving else None},
        status={"phase": phase},
        **{"namespace": "ns1", "ready": True, **fields},
    )


def web(*ports: Any, **spec: Any) -> Service:
    return build.service("svc1", *ports, selector={"app": "web"}, **spec)


def addresses(service: Service, *pods: Pod) -> list[list[str]]:
    return [[each.addresses[0] for each in entry.endpoints] for entry in endpoint_slices_for(service, pods, [])]


@pytest.mark.parametrize(
    ("one", "publish", "conditions"),
    [
        (pod("a", "10.0.0.1"), False, (True, True, False)),
        (pod("a", "10.0.0.1", ready=False), False, (False, False, False)),
        (pod("a", "10.0.0.1", leaving=True), False, (False, True, True)),
        (pod("a", "10.0.0.1", ready=False, leaving=True), False, (False, False, True)),
        (pod("a", "10.0.0.1", ready=False), True, (True, False, False)),
        (pod("a", "10.0.0.1", leaving=True), True, (True, True, True)),
    ],
)
def test_conditions(one: Pod, publish: bool, conditions: tuple[bool, bool, bool]) -> None:
    (entry,) = endpoint_slices_for(web(publishNotReadyAddresses=publish), [one], [])
    ready, serving, terminating = conditions
    assert entry.endpoints[0].conditions == EndpointConditions(ready=ready, serving=serving, terminating=terminating)


def test_pods_that_are_no_endpoints() -> None:
    pods = (
        pod("a", "10.0.0.1"),
        pod("done", "10.0.0.2", phase="Succeeded"),
        pod("failed", "10.0.0.3", phase="Failed"),
        pod("unborn"),
        pod("other", "10.0.0.4", labels={"app": "db"}),
        pod("elsewhere", "10.0.0.5", namespace="ns2"),
    )
    assert addresses(web(), *pods) == [["10.0.0.1"]]


def test_a_slice_names_its_service_its_pods_and_its_owner() -> None:
    (entry,) = endpoint_slices_for(web(), [pod("a", "10.0.0.1")], [build.node(zone="z")])
    assert entry.metadata.labels == {
        "kubernetes.io/service-name": "svc1",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert entry.metadata.ownerReferences[0].kind == "Service"
    (endpoint,) = entry.endpoints
    assert (endpoint.nodeName, endpoint.zone, endpoint.hostname, endpoint.hints) == ("n1", "z", None, None)
    assert endpoint.targetRef is not None
    assert (endpoint.targetRef.kind, endpoint.targetRef.name, endpoint.targetRef.uid) == ("Pod", "a", "uid-a")


def test_without_a_selector_or_without_pods() -> None:
    assert endpoint_slices_for(build.service(), [pod("a", "10.0.0.1")], []) == []
    assert endpoint_slices_for(web(type="ExternalName"), [pod("a", "10.0.0.1")], []) == []
    (entry,) = endpoint_slices_for(web(), [], [])
    assert (entry.endpoints, entry.ports, entry.addressType) == ((), (), "IPv4")


def test_a_named_port_that_differs_makes_slices_of_their_own() -> None:
    service = web(build.port(80, "http", targetPort="web"), build.port(53, "dns", protocol="UDP", targetPort="dns"))
    dns = ContainerPort(name="dns", containerPort=53, protocol="UDP")
    pods = (
        pod("a", "10.0.0.1", ports=[ContainerPort(name="web", containerPort=8080), dns]),
        pod("b", "10.0.0.2", ports=[ContainerPort(name="web", containerPort=9090)]),
        pod("c", "10.0.0.3", ports=[ContainerPort(name="web", containerPort=8080), dns]),
        pod("d", "10.0.0.4", ports=[ContainerPort(name="web", containerPort=8080, protocol="UDP")]),
    )
    found = [
        ([each.addresses[0] for each in entry.endpoints], [(port.name, port.port) for port in entry.ports])
        for entry in endpoint_slices_for(service, pods, [])
    ]
    assert found == [
        (["10.0.0.1", "10.0.0.3"], [("http", 8080), ("dns", 53)]),
        (["10.0.0.2"], [("http", 9090)]),
        (["10.0.0.4"], []),
    ]


def test_target_ports_by_number() -> None:
    service = web(build.port(80, "a", targetPort=8080), build.port(81, "b"), build.port(82, "c", targetPort=0))
    (entry,) = endpoint_slices_for(service, [pod("a", "10.0.0.1")], [])
    assert [(port.name, port.port) for port in entry.ports] == [("a", 8080), ("b", 81), ("c", 82)]


def test_at_most_a_hundred_endpoints_a_slice() -> None:
    pods = [pod(f"p{index:03}", f"10.0.1.{index}") for index in range(201)]
    entries = endpoint_slices_for(web(), pods, [])
    assert [len(each.endpoints) for each in entries] == [100, 100, 1]
    assert len({each.metadata.name for each in entries}) == 3


def test_two_families() -> None:
    service = web(ip="172.30.0.41", ipFamilies=("IPv4", "IPv6"))
    entries = endpoint_slices_for(service, [pod("a", "10.0.0.1", "fd00:10::1"), pod("b", "10.0.0.2")], [])
    assert [(each.addressType, [one.addresses for one in each.endpoints]) for each in entries] == [
        ("IPv4", [("10.0.0.1",), ("10.0.0.2",)]),
        ("IPv6", [("fd00:10::1",)]),
    ]
    assert [each.addressType for each in endpoint_slices_for(web(ip="fd00:172::1"), [], [])] == ["IPv6"]


def test_host_names_and_headless() -> None:
    named, other = (
        pod("a", "10.0.0.1", hostname="db-0", subdomain="svc1"),
        pod("b", "10.0.0.2", hostname="x", subdomain="y"),
    )
    (entry,) = endpoint_slices_for(web(ip="None"), [named, other], [])
    assert [each.hostname for each in entry.endpoints] == ["db-0", None]
    assert "service.kubernetes.io/headless" in entry.metadata.labels


@pytest.mark.parametrize(
    ("distribution", "nodes", "zones"),
    [
        (None, (), ()),
        ("PreferClose", (), (ForZone(name="z"),)),
        ("PreferSameZone", (), (ForZone(name="z"),)),
        ("PreferSameNode", (ForNode(name="n1"),), (ForZone(name="z"),)),
    ],
)
def test_traffic_distribution(distribution: str | None, nodes: Any, zones: Any) -> None:
    (entry,) = endpoint_slices_for(
        web(trafficDistribution=distribution), [pod("a", "10.0.0.1")], [build.node(zone="z")]
    )
    hints = entry.endpoints[0].hints
    assert ((hints.forNodes, hints.forZones) if hints else ((), ())) == (nodes, zones)


# Endpoints


def mirrored(*subsets: EndpointSubset, **meta: Any) -> Any:
    return mirrored_slices(Endpoints(metadata=ObjectMeta(name="db", namespace="ns1", **meta), subsets=subsets))


def test_endpoints_are_mirrored_by_family_and_ports() -> None:
    ports = (EndpointPort(name="sql", port=5432),)
    entries = mirrored(
        EndpointSubset(
            addresses=(EndpointAddress(ip="198.51.100.7", nodeName="n9"), EndpointAddress(ip="2001:db8::7")),
            notReadyAddresses=(EndpointAddress(ip="198.51.100.8"),),
            ports=ports,
        ),
        labels={"team": "a"},
        annotations={"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
    )
    assert [
        (each.addressType, [(one.addresses, one.conditions.ready, one.nodeName) for one in each.endpoints])
        for each in entries
    ] == [
        ("IPv4", [(("198.51.100.7",), True, "n9"), (("198.51.100.8",), False, None)]),
        ("IPv6", [(("2001:db8::7",), True, None)]),
    ]
    assert entries[0].ports == ports
    assert entries[0].metadata.labels == {
        "team": "a",
        "kubernetes.io/service-name": "db",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }
    assert entries[0].metadata.annotations == {"note": "x"}
    assert len({each.metadata.name for each in entries}) == 2


def test_a_huge_subset_is_cut() -> None:
    many = tuple(
        EndpointAddress(ip=f"10.{index >> 8}.{index & 255}.1") for index in range(MAX_ENDPOINTS_PER_SUBSET + 1)
    )
    (entry,) = mirrored(EndpointSubset(addresses=many, ports=(EndpointPort(port=80),)))
    assert len(entry.endpoints) == MAX_ENDPOINTS_PER_SUBSET


# Manifests that no cluster has seen


def test_played_manifests_resolve() -> None:
    service = web(ip=None, type="NodePort")
    table = build.table(*with_generated_slices([service, pod("a", "10.0.0.1"), build.node()]), service_cidrs=())
    assert build.brief(table, "10.0.0.9", "10.96.1.1") == "10.0.0.1:80"
    assert build.brief(table, "203.0.113.2", "192.168.0.2", 30086) == "10.0.0.1:80 masquerade"


def test_manifests_of_a_cluster_are_left_alone() -> None:
    there = [web(ip=None), build.slice("10.180.0.1"), pod("a", "10.0.0.1")]
    assert with_generated_slices(there) == there
    assert with_generated_slices(there[:1]) == there[:1]
