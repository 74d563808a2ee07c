"""What the routes say about pods that another plugin wired."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from tests import builders

from percale.agent.policy.foreign_pods import inspect_pods
from percale.kernel.errors import kernel_error
from percale.kernel.protocol import HostRoute, Interface, Underlay, Upsert
from percale.policy.pod_facts import PodFacts, facts_of
from percale.render.objects import Sysctl


def pod(name: str, *addresses: str, phase: str = "Running") -> PodFacts:
    return facts_of(builders.pod(name, *addresses, status={"phase": phase}))


def route(dst: str, dev: str, via: str | None = None) -> HostRoute:
    return HostRoute(ip_network(dst), dev, ip_address(via) if via else None, 0)


def interface(name: str, master: str | None = None) -> Interface:
    return Interface(name, 1, None, 1500, True, True, master=master)


BRIDGED = Underlay(
    interfaces=(interface("eth0"), interface("cni0"), interface("veth1", "cni0"), interface("cali7")),
    routes=(
        route("0.0.0.0/0", "eth0", "192.168.0.1"),
        route("10.88.0.0/24", "cni0"),
        route("fd00:88::/64", "cni0"),
        route("10.88.0.7/32", "cali7"),
        route("10.88.0.0/16", "eth0", "192.168.0.2"),
    ),
)


def test_a_pod_of_a_bridge_s_subnet_is_on_the_bridge_in_each_family() -> None:
    found = inspect_pods([pod("a", "10.88.0.5", "fd00:88::5")], BRIDGED)
    assert found.bridges == {("cni0", 4), ("cni0", 6)}
    assert not found.unrouted


def test_the_longest_prefix_wins() -> None:
    assert not inspect_pods([pod("a", "10.88.0.7")], BRIDGED).bridges


def test_what_a_gateway_or_the_default_route_leads_to_is_not_here() -> None:
    found = inspect_pods([pod("b", "10.88.9.9"), pod("a", "10.99.0.1")], BRIDGED)
    assert found.unrouted == (("default/a", ip_address("10.99.0.1")), ("default/b", ip_address("10.88.9.9")))


def test_a_default_route_without_a_gateway_leads_to_no_pod() -> None:
    underlay = Underlay((interface("wg0"),), (route("0.0.0.0/0", "wg0"),))
    assert inspect_pods([pod("a", "10.88.0.5")], underlay).unrouted


def test_a_pod_that_does_not_run_yet_may_have_no_wires() -> None:
    assert not inspect_pods([pod("a", "10.99.0.1", phase="Pending")], BRIDGED).unrouted


def test_a_kernel_without_br_netfilter_is_one_clear_problem() -> None:
    error = kernel_error(
        Upsert(Sysctl("net/bridge/bridge-nf-call-iptables", "1")), FileNotFoundError(2, "No such file")
    )
    assert "bridge-nf-call-iptables" in str(error)
    assert "modprobe br_netfilter" in str(error)
