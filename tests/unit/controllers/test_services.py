"""Services become slices, endpoints, addresses and names: from any state to what they say, and no further."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests import builders
from tests.unit.controllers.cluster import Cluster

from percale.controllers import cluster_dns
from percale.controllers.service_networks import ServiceNetworks
from percale.controllers.workloads import Write
from percale.model.endpoints import Endpoints, EndpointSlice
from percale.model.meta import Object, ObjectKey
from percale.model.pod import Pod
from percale.model.service import Service

NETWORKS = ServiceNetworks((ip_network("10.96.0.0/16"), ip_network("fd00:96::/112")), (ip_network("198.51.100.0/28"),))
LABELS = {"app": "web"}


def service(name: str = "web", **spec: Any) -> Service:
    return builders.service(name, namespace="shop", meta={"uid": name}, **{"selector": LABELS, **spec})


def pod(name: str, address: str, *, ready: bool = True, labels: dict[str, str] = LABELS, **meta: str) -> Pod:
    return builders.pod(
        name,
        address,
        namespace="shop",
        labels=labels,
        ports=[{"name": "http", "containerPort": 8080}],
        ready=ready,
        meta={"uid": name, **meta},
        status={"hostIP": "192.168.1.2"},
    )


class Lab(Cluster):
    def __init__(self, *objects: Object) -> None:
        super().__init__(NETWORKS, builders.node(), *objects)
        self.settle()

    def put(self, obj: Object) -> list[Write]:
        self.cache.put(obj)
        return self.settle()

    def service(self, name: str = "web") -> Service:
        found = self.cache.get(Service, ObjectKey("shop", name))
        assert found is not None
        return found

    def endpoints(self, name: str = "web") -> dict[str, tuple[bool | None, bool | None]]:
        """Ready and terminating by address."""
        return {
            endpoint.addresses[0]: (endpoint.conditions.ready, endpoint.conditions.terminating)
            for each in self.cache.all(EndpointSlice)
            if each.metadata.labels["kubernetes.io/service-name"] == name
            for endpoint in each.endpoints
        }


def test_slices_follow_the_pods() -> None:
    lab = Lab(service(), pod("a", "10.244.1.2"), pod("b", "10.244.1.3", ready=False), pod("c", "10.244.1.4", labels={}))
    assert lab.endpoints() == {"10.244.1.2": (True, False), "10.244.1.3": (False, False)}
    lab.put(pod("b", "10.244.1.3"))
    assert lab.endpoints()["10.244.1.3"] == (True, False)
    lab.put(pod("a", "10.244.1.2", deletionTimestamp="2026-01-01T00:00:00Z"))
    assert lab.endpoints()["10.244.1.2"] == (False, True)
    lab.cache.remove(pod("a", "10.244.1.2"))
    lab.settle()
    assert list(lab.endpoints()) == ["10.244.1.3"]


def test_nothing_is_written_when_nothing_has_changed() -> None:
    lab = Lab(service(type="LoadBalancer"), service("db", selector={}), pod("a", "10.244.1.2"))
    assert lab.settle() == []
    assert lab.put(pod("other", "10.244.1.9", labels={})) == []


def test_a_service_that_goes_takes_its_slices_and_endpoints_along() -> None:
    lab = Lab(service(), pod("a", "10.244.1.2"))
    assert lab.cache.get(Endpoints, ObjectKey("shop", "web")) is not None
    lab.cache.remove(lab.service())
    lab.settle()
    assert lab.endpoints() == {}
    assert lab.cache.get(Endpoints, ObjectKey("shop", "web")) is None


def test_peoples_own_slices_stay_and_keep_their_names() -> None:
    own = builders.endpoint_slice("web", name="web-ipv4-0", namespace="shop")
    lab = Lab(service(), own, pod("a", "10.244.1.2"))
    assert lab.cache.get(EndpointSlice, own.key) == own
    assert list(lab.endpoints()) == ["10.244.1.2"]
    lab.cache.remove(lab.service())
    lab.settle()
    assert lab.cache.get(EndpointSlice, own.key) == own


def test_endpoints_of_a_service_without_a_selector_are_mirrored() -> None:
    plain = {
        "metadata": {"name": "db", "namespace": "shop"},
        "subsets": [{"addresses": [{"ip": "203.0.113.20"}], "ports": [{"port": 5432}]}],
    }
    lab = Lab(service("db", selector={}, ports=[{"port": 5432}]), msgspec.convert(plain, Endpoints))
    assert lab.endpoints("db") == {"203.0.113.20": (True, None)}
    lab.put(replace(lab.service("db"), spec=replace(lab.service("db").spec, selector={"app": "db"})))
    assert lab.endpoints("db") == {}


def test_endpoints_are_the_older_form_of_slices() -> None:
    lab = Lab(
        service(ports=[{"port": 80, "targetPort": "http"}], ipFamilyPolicy="PreferDualStack"),
        pod("a", "10.244.1.2"),
        pod("b", "10.244.1.3", ready=False),
        pod("c", "10.244.1.4", deletionTimestamp="2026-01-01T00:00:00Z"),
    )
    found = lab.cache.get(Endpoints, ObjectKey("shop", "web"))
    assert found is not None
    (subset,) = found.subsets
    assert [each.ip for each in subset.addresses] == ["10.244.1.2"]
    assert [each.ip for each in subset.notReadyAddresses] == ["10.244.1.3"]
    assert [port.port for port in subset.ports] == [8080]


def test_services_of_files_get_their_addresses_and_ports() -> None:
    lab = Lab(service("a"), service("b", type="NodePort"), service("c", clusterIP="10.96.1.1"))
    assert lab.service("c").spec.clusterIPs == ("10.96.1.1",)
    assert lab.service("a").spec.clusterIP != "10.96.1.1"
    assert 30000 <= (lab.service("b").spec.ports[0].nodePort or 0) <= 32767


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"clusterIP": "10.96.0.10"}, "failed to allocate IP 10.96.0.10: provided IP is already allocated"),
        ({"clusterIP": "10.7.0.1"}, "is not in the valid range. The range of valid IPs is 10.96.0.0/16"),
        ({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}, "The range of valid ports is 30000-32767"),
    ],
)
def test_a_service_of_a_file_that_cannot_be_is_a_problem_and_the_others_live(spec: dict[str, Any], said: str) -> None:
    lab = Lab(service("good"))
    lab.put(service("bad", **spec))
    assert len(lab.problems) == 1
    assert lab.problems[0].startswith("Service shop/bad: spec.")
    assert said in lab.problems[0]
    assert lab.service("good").spec.clusterIPs


def test_load_balancers_get_an_address_of_the_pool_each() -> None:
    lab = Lab(
        service("a", type="LoadBalancer"),
        service("b", type="LoadBalancer", loadBalancerIP="198.51.100.1"),
        service("c", type="LoadBalancer", loadBalancerClass="example.com/other"),
        service("d", type="LoadBalancer", loadBalancerIP="8.8.8.8"),
    )
    have = {each.metadata.name: each.status.loadBalancer.ingress for each in lab.cache.all(Service)}
    assert [each.ip for each in have["a"]] == ["198.51.100.2"]
    assert [(each.ip, each.ipMode) for each in have["b"]] == [("198.51.100.1", "VIP")]
    assert have["c"] == have["d"] == ()
    assert lab.problems == ["Service shop/d: loadBalancerIP 8.8.8.8 is taken, or not one of 198.51.100.0/28"]
    lab.put(replace(lab.service("a"), spec=replace(lab.service("a").spec, type="ClusterIP")))
    assert lab.service("a").status.loadBalancer.ingress == ()


def test_an_address_that_is_none_is_nobodys_and_the_others_have_theirs() -> None:
    odd = builders.service("odd", namespace="shop", ingress=["neither"], type="LoadBalancer")
    lab = Lab(odd, service("a", type="LoadBalancer"))
    assert [each.ip for each in lab.service("a").status.loadBalancer.ingress] == ["198.51.100.1"]


def test_a_full_pool_is_a_problem() -> None:
    lab = Lab(*(service(f"s{number}", type="LoadBalancer") for number in range(15)))
    assert lab.problems == ["Service shop/s9: 198.51.100.0/28 is full"]


def test_the_name_server_comes_with_the_first_service_and_comes_back() -> None:
    lab = Lab()
    assert lab.cache.get(Pod, cluster_dns.POD) is None
    lab.put(service())
    made, answering = lab.cache.get(Pod, cluster_dns.POD), lab.cache.get(Service, cluster_dns.SERVICE)
    assert made is not None
    assert made.spec.nodeName == "n1"
    assert answering is not None
    assert answering.spec.clusterIPs == ("10.96.0.10", "fd00:96::a")
    lab.cache.remove(made)
    lab.settle()
    assert lab.cache.get(Pod, cluster_dns.POD) is not None
