"""Which networks Services and load balancers get: nobody else's."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network

import pytest

from percale.errors import BadManifest
from percale.lab.spec.service_networks import service_networks
from percale.lab.spec.topology import Host, LabSpec, topology

PODS = ip_network("10.244.0.0/16")
PODS6 = ip_network("fd00:244::/56")


def test_they_have_the_families_of_the_pods_and_the_tenth_address_is_the_name_servers() -> None:
    one = service_networks(LabSpec(), topology(LabSpec()), (PODS,), "lab")
    assert list(map(str, one.cidrs)) == ["10.96.0.0/16"]
    assert one.name_servers == ("10.96.0.10",)
    both = service_networks(LabSpec(), topology(LabSpec()), (PODS, PODS6), "lab")
    assert list(map(str, both.cidrs)) == ["10.96.0.0/16", "fd00:96::/112"]
    assert both.name_servers == ("10.96.0.10", "fd00:96::a")
    assert list(map(str, both.load_balancers)) == ["198.51.100.0/28", "2001:db8:96::/124"]
    only6 = service_networks(LabSpec(), topology(LabSpec()), (PODS6,), "lab")
    assert list(map(str, only6.cidrs)) == ["fd00:96::/112"]


def test_a_usual_network_that_is_in_use_is_not_chosen() -> None:
    spec = LabSpec(hosts=(Host("office", address=IPv4Address("198.51.100.10")),))
    found = service_networks(spec, topology(spec), (ip_network("10.0.0.0/8"),), "lab")
    assert list(map(str, found.cidrs)) == ["172.20.0.0/16"]
    assert list(map(str, found.load_balancers)) == ["192.0.2.0/28"]


def test_the_documents_own_ones_count() -> None:
    spec = LabSpec(serviceCIDR="10.43.0.0/16, fd43::/112", loadBalancers="100.70.0.0/24")
    found = service_networks(spec, topology(spec), (PODS, PODS6), "lab")
    assert found.name_servers == ("10.43.0.10", "fd43::a")
    assert list(map(str, found.load_balancers)) == ["100.70.0.0/24"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            LabSpec(serviceCIDR="10.244.128.0/20"),
            "lab: serviceCIDR: 10.244.128.0/20 and 10.244.0.0/16, which is in use",
        ),
        (LabSpec(serviceCIDR="192.168.1.0/24"), "192.168.1.0/24, which is in use, overlap"),
        (LabSpec(serviceCIDR="10.96.0.1/16"), "has host bits set; write a network, as 10.96.0.0/16"),
        (LabSpec(serviceCIDR="10.96.0.0/29"), "10.96.0.0/29 is too small; 16 addresses are the least"),
        (LabSpec(serviceCIDR="10.96.0.0/16,10.97.0.0/16"), "more than one network of an address family"),
        (LabSpec(serviceCIDR="fd00:96::/112"), "pods have IPv4 addresses, but Services would have none"),
        (LabSpec(loadBalancers="10.96.0.0/24"), "lab: loadBalancers: 10.96.0.0/24 and 10.96.0.0/16, which is in use"),
        (LabSpec(loadBalancers="203.0.113.0/28"), "203.0.113.0/28 and 203.0.113.0/24, which is in use, overlap"),
    ],
)
def test_a_bad_one_is_refused(spec: LabSpec, said: str) -> None:
    with pytest.raises(BadManifest) as raised:
        service_networks(spec, topology(spec), (PODS,), "lab")
    assert said in str(raised.value)
