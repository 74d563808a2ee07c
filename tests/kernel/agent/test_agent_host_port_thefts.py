"""Host ports take nothing that is another's: an outside address, a pod, the agent's ports, loopback from elsewhere.

Real packets through real agents, in both wirings and families.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.kernel.agent.cluster import DUAL, NETNS, Cluster, Node, Pod, sh
from tests.kernel.agent.services import SERVICES, Services
from tests.kernel.inside import inside
from tests.kernel.service_world import Seen
from tests.waiting import until

OUTSIDE, NODE = {4: "192.168.0.254", 6: "fd00::254"}, {4: "192.168.0.1", 6: "fd00::1"}
WIRINGS = pytest.mark.parametrize("wiring", ["routed", "bridge"])


def mapping(port: int, protocol: str = "tcp", **more: object) -> dict[str, object]:
    return {"hostPort": port, "containerPort": 8080, "protocol": protocol, **more}


@contextmanager
def one_node(cluster: Cluster, wiring: str = "routed", **settings: Any) -> Iterator[tuple[Services, Node]]:
    cluster.network = DUAL
    world = Services(cluster)
    try:
        world.node(1)
        node = cluster.node(1, ipv6=True, **{**SERVICES, **settings})
        node.settings["cni"]["wiring"] = wiring
        if "http" in settings:  # which nobody but the node may ask
            node.launch()
            until((node.directory / "net.d" / "10-percale.conflist").exists, "pods are welcome")
        else:
            node.start()
        yield world, node
    finally:
        world.close()


def refusal(node: Node, name: str, **asked: Any) -> str:
    """What the plugin says to an ADD that must fail."""
    node.cluster.namespace(name)
    plugin = Pod(node, name, runtime={"portMappings": [mapping(**asked)]}).launch("ADD")
    output = plugin.communicate(timeout=60)[0]
    assert plugin.returncode == 1, output
    return str(json.loads(output)["msg"])


def allow_everywhere(node: Node) -> None:
    """As kube-proxy does for node ports at loopback, or an administrator."""
    node.sh("sysctl", "-q", "-w", "net.ipv4.conf.all.route_localnet=1")


@WIRINGS
@pytest.mark.parametrize("version", [4, 6])
def test_what_is_sent_to_others_is_not_taken(cluster: Cluster, wiring: str, version: int) -> None:
    """Not even at an address that was the node's when the pod asked for it."""
    extra = {4: "192.168.0.77/24", 6: "fd00::77/64"}[version]
    address = extra.partition("/")[0]
    with one_node(cluster, wiring) as (world, node):
        world.answering.listen(NETNS / "switch", "outside")
        victim = world.serving(node.pod("victim"))
        node.pod("client")
        node.ip("address", "add", extra, "dev", "eth0", "nodad")
        everywhere = [mapping(port, protocol) for port in (81, 8081) for protocol in ("tcp", "udp")]
        asked = [mapping(8080, protocol, hostIP=address) for protocol in ("tcp", "udp")]
        world.serving(node.pod("thief", portMappings=[*asked, *everywhere]))
        for protocol in ("TCP", "UDP"):
            until(lambda protocol=protocol: world.ask("switch", address, 8080, protocol).who == "thief")  # type: ignore[misc]
        node.ip("address", "del", extra, "dev", "eth0")
        sh("switch", "ip", "address", "add", extra, "dev", "br0", "nodad")
        for client in ("client", "n1"):
            until(lambda client=client: world.ask(client, address, 8080).who == "outside", f"{client}: it has moved")  # type: ignore[misc]
            assert world.ask(client, address, 8080, "UDP").who != "thief"
            for protocol in ("TCP", "UDP"):
                assert world.ask(client, OUTSIDE[version], 81, protocol).action == "reject", "nobody is there"
                own = next(each for each in victim.addresses if (":" in each) == (version == 6))
                assert world.ask(client, own, 8080, protocol).who == "victim"
                assert world.ask(client, own, 8081, protocol).action == "reject"


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_that_is_not_the_nodes_is_an_error_of_the_add(cluster: Cluster, version: int) -> None:
    with one_node(cluster) as (world, node):
        victim = world.serving(node.pod("victim"))
        own = next(each for each in victim.addresses if (":" in each) == (version == 6))
        for number, address in enumerate((OUTSIDE[version], own)):
            said = refusal(node, f"thief{number}", port=81, hostIP=address)
            assert said == (
                f"pod default/thief{number}: host port 81/TCP at {address}: this node has no such address; "
                "hostIP must be an address of the pod's node; without one it is at all of them"
            )


@WIRINGS
def test_loopback_is_for_the_nodes_processes(cluster: Cluster, wiring: str) -> None:
    """hostIP 127.0.0.1, as Conformance asks for it, and without a hostIP as portmap gives it."""
    with one_node(cluster, wiring) as (world, node):
        ports = [mapping(81, protocol, hostIP="127.0.0.1") for protocol in ("tcp", "udp")]
        ports += [mapping(82, protocol) for protocol in ("tcp", "udp")]
        world.serving(node.pod("a", portMappings=ports))
        node.pod("other")
        for protocol in ("TCP", "UDP"):
            for port in (81, 82):
                seen = world.ask("n1", "127.0.0.1", port, protocol)
                assert (seen.action, seen.who) == ("endpoints", "a")
                assert not seen.client.startswith("127."), "it could not answer"
            assert world.ask("n1", "127.0.0.9", 82, protocol).action == "reject", "what is not asked for"
            assert world.ask("n1", NODE[4], 81, protocol).action == "reject", "at loopback alone"
            assert world.ask("switch", NODE[4], 81, protocol).action == "reject"


@WIRINGS
def test_one_number_at_two_addresses_and_of_two_protocols(cluster: Cluster, wiring: str) -> None:
    """The three pods of Conformance, which asks loopback from the node's address, too."""
    asked = {"a": ("127.0.0.1", "tcp"), "b": (NODE[4], "tcp"), "c": (NODE[4], "udp")}
    with one_node(cluster, wiring) as (world, node):
        for name, (address, protocol) in asked.items():
            world.serving(node.pod(name, portMappings=[mapping(54323, protocol, hostIP=address)]))
        for name, (address, protocol) in asked.items():
            assert world.ask("n1", address, 54323, protocol.upper()).who == name
            assert world.ask("n1", address, 54323, protocol.upper(), source=(NODE[4], 0)).who == name


@WIRINGS
def test_nobody_else_gets_to_loopback(cluster: Cluster, wiring: str) -> None:
    """Neither to what listens there, nor to a host port: from a pod, and from a neighbour, with `route_localnet` everywhere."""
    with one_node(cluster, wiring) as (world, node):
        world.serving(node.pod("a", portMappings=[mapping(81, hostIP="127.0.0.1"), mapping(82)]))
        node.pod("other")
        world.answering.listen(NETNS / "n1", "node", 9999)
        allow_everywhere(node)
        via = "169.254.1.1" if wiring == "routed" else node.subnet.replace("0/24", "1")
        for name in ("a", "other", "switch"):
            sh(name, "sysctl", "-q", "-w", "net.ipv4.conf.all.route_localnet=1")
            sh(name, "ip", "address", "flush", "dev", "lo")
            sh(name, "ip", "rule", "add", "to", "127.0.0.0/8", "lookup", "100", "priority", "0")
            device, hop = ("br0", NODE[4]) if name == "switch" else ("eth0", via)
            sh(name, "ip", "route", "add", "127.0.0.0/8", "via", hop, "dev", device, "table", "100")
            sh(name, "ip", "rule", "del", "priority", "0", "lookup", "local", check=False)
            sh(name, "ip", "rule", "add", "lookup", "local", "priority", "10")
        before = arrived(node)
        for name in ("a", "other", "switch"):
            for protocol in ("TCP", "UDP"):
                for port in (81, 82, 9999):
                    assert world.ask(name, "127.0.0.1", port, protocol).action == "drop", f"{name} {protocol} {port}"
        assert arrived(node) > before, "the packets came as far as that"
        assert world.ask("n1", "127.0.0.1", 9999).who == "node"
        assert world.ask("n1", "127.0.0.1", 81).who == "a"


def arrived(node: Node) -> int:
    counted = json.loads(node.sh("nft", "-j", "list", "counter", "ip", "percale", "loopback"))
    return int(next(each["counter"]["packets"] for each in counted["nftables"] if "counter" in each))


@WIRINGS
def test_a_port_of_the_agents_is_an_error_of_the_add(cluster: Cluster, wiring: str) -> None:
    with one_node(cluster, wiring, http="127.0.0.1:9099") as (_, node):
        kept = {9099: "http", 10256: "services.healthz", 10249: "services.metrics"}
        for port, setting in kept.items():
            for number, more in enumerate(({}, {"hostIP": "127.0.0.1"}, {"hostIP": NODE[4]})):
                said = refusal(node, f"p{port}-{number}", port=port, **more)
                assert "is the agent's own" in said
                assert setting in said
        assert "its tunnel" in refusal(node, "tunnel", port=8472, protocol="udp")
        assert "percale_pods" in node.sh("curl", "-s", "http://127.0.0.1:9099/metrics")


def test_a_health_check_that_comes_later_has_its_port(cluster: Cluster) -> None:
    with one_node(cluster) as (world, node):
        thief = world.serving(node.pod("thief", portMappings=[mapping(32000)]))
        assert world.ask("switch", NODE[4], 32000).who == "thief"
        world.service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=32000)
        world.slice(thief)
        until(lambda: answers_http(world, NODE[4], 32000), "the health check answers")
        (problem,) = (each.error for each in node.status.problems if each.source == "host ports")
        assert (
            "pod default/thief is not reached at host port 32000/TCP, which is the agent's own: a health check"
            in problem
        )
        assert "is the agent's own" in refusal(node, "late", port=32000)
        world.remove("service-web")
        until(lambda: world.ask("switch", NODE[4], 32000).who == "thief")
        until(lambda: not any(each.source == "host ports" for each in node.status.problems))


def answers_http(world: Services, address: str, port: int) -> bool:
    with inside(NETNS / "switch", socket.socket) as client:
        client.settimeout(2)
        try:
            client.connect((address, port))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.recv(8) == b"HTTP/1.0"
        except OSError:
            return False


def test_what_the_node_listens_on(cluster: Cluster) -> None:
    """At loopback it stays the process's; elsewhere it is the pod's, as with portmap, and the status says so."""
    with one_node(cluster) as (world, node):
        world.answering.listen(NETNS / "n1", "node", 81)
        said = refusal(node, "thief", port=81, hostIP="127.0.0.1")
        assert "host port 81/TCP at 127.0.0.1: a process of this node listens at 0.0.0.0:81" in said
        pod = world.serving(node.pod("a", portMappings=[mapping(81), mapping(81, "udp")]))
        for protocol in ("TCP", "UDP"):
            assert world.ask("n1", "127.0.0.1", 81, protocol).who == "node"
            assert world.ask("switch", NODE[4], 81, protocol) == Seen("endpoints", "a", OUTSIDE[4])
        (problem,) = (each.error for each in node.status.problems if each.source == "host ports")
        assert (
            "pod default/a takes what comes to host port 81/TCP; a process of this node listens at 0.0.0.0:81"
            in problem
        )
        pod.cni("DEL")
        until(lambda: not any(each.source == "host ports" for each in node.status.problems))
        assert world.ask("switch", NODE[4], 81).who == "node"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"hostIP": NODE[4]}),
        ({"hostIP": NODE[4]}, {}),
        ({"hostIP": "127.0.0.1"}, {}),
        ({}, {"containerPort": 8081}),
    ],
    ids=["one address of all", "all around one", "loopback of all", "another container port"],
)
def test_a_port_that_another_pod_has_in_part(cluster: Cluster, first: dict[str, Any], second: dict[str, Any]) -> None:
    with one_node(cluster) as (world, node):
        world.serving(node.pod("a", portMappings=[mapping(81, **first)]))
        assert "is taken; pod default/a has it" in refusal(node, "b", **{"port": 81, **second})
        at = str(first.get("hostIP", NODE[4]))
        assert world.ask("n1", at, 81).who == "a"
        world.serving(node.pod("c", portMappings=[mapping(82)]))
        assert world.ask("n1", NODE[4], 82).who == "c", "the table lives"
