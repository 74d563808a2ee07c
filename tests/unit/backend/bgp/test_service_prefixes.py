"""Addresses of Services that a node advertises by themselves: after any changes what a fresh start would say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from percale.backend.bgp.service_prefixes import ServicePrefixes
from percale.model.endpoints import SERVICE_LABEL, Endpoint, EndpointConditions, EndpointSlice
from percale.model.meta import Object, ObjectMeta
from percale.model.service import LoadBalancerIngress, LoadBalancerStatus, Service, ServiceSpec, ServiceStatus

BLOCKS = (("10.96.0.0/12",), ("198.51.100.0/24", "203.0.113.7/32"), ("192.0.2.0/24",))


def service(
    name: str = "web", policy: str = "Local", cluster: str = "10.96.0.10", external: str = "198.51.100.1"
) -> Service:
    balancer = LoadBalancerStatus(
        ingress=(LoadBalancerIngress(ip="192.0.2.1"), LoadBalancerIngress(ip="192.0.2.2", ipMode="Proxy"))
    )
    return Service(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ServiceSpec(clusterIP=cluster, externalIPs=(external, "nonsense"), externalTrafficPolicy=policy),  # type: ignore[arg-type]
        status=ServiceStatus(loadBalancer=balancer),
    )


def endpoints(name: str = "web", node: str = "n1", *, ready: bool | None = True, of: str = "web") -> EndpointSlice:
    endpoint = Endpoint(addresses=("10.244.1.2",), nodeName=node, conditions=EndpointConditions(ready=ready))
    metadata = ObjectMeta(name=name, namespace="default", labels={SERVICE_LABEL: of})
    return EndpointSlice(metadata=metadata, addressType="IPv4", endpoints=(endpoint,))


def prefixes(*objects: Object) -> list[str]:
    found = ServicePrefixes("n1")
    found.set_blocks(BLOCKS)
    for each in objects:
        put(found, each)
    return list(map(str, found.prefixes))


def put(found: ServicePrefixes, obj: Object) -> None:
    if isinstance(obj, Service):
        found.put_service(obj)
    elif isinstance(obj, EndpointSlice):
        found.put_slice(obj)


def test_with_policy_local_the_node_of_a_ready_endpoint() -> None:
    assert prefixes(service(), endpoints()) == ["10.96.0.10/32", "192.0.2.1/32", "198.51.100.1/32"]
    assert prefixes(endpoints(ready=None), service())
    assert prefixes(service(), endpoints(node="n2")) == []


def test_bug_an_endpoint_that_is_not_ready_is_not_advertised() -> None:
    """calico#13255."""
    assert prefixes(service(), endpoints(ready=False)) == []
    assert prefixes(service(), endpoints("a", ready=False), endpoints("b", node="n2")) == []


def test_with_policy_cluster_the_blocks_are_enough_except_one_address() -> None:
    assert prefixes(service(policy="Cluster"), endpoints()) == []
    assert prefixes(service(policy="Cluster", external="203.0.113.7")) == ["203.0.113.7/32"]
    assert prefixes(service(external="203.0.113.7")) == []
    assert prefixes(service(cluster="172.16.0.1", external="203.0.113.8"), endpoints()) == ["192.0.2.1/32"]


OBJECTS = st.builds(service, st.sampled_from("ab"), st.sampled_from(["Local", "Cluster"])) | st.builds(
    endpoints, st.sampled_from("xy"), st.sampled_from(["n1", "n2"]), ready=st.booleans(), of=st.sampled_from("ab")
)


@given(st.lists(st.tuples(OBJECTS, st.booleans()), max_size=12))
def test_any_way_leads_to_the_same(changes: list[tuple[Object, bool]]) -> None:
    found, there = ServicePrefixes("n1"), dict[object, Object]()
    for obj, gone in changes:
        found.set_blocks(BLOCKS)
        if gone:
            there.pop((type(obj), obj.key), None)
            found.remove_service(obj.key) if isinstance(obj, Service) else found.remove_slice(obj.key)
        else:
            there[type(obj), obj.key] = obj
            put(found, obj)
    assert list(map(str, found.prefixes)) == prefixes(*there.values())
