"""Host ports through the real plugin and agent: who reaches them, whom the pod sees, and how long they last."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest
from tests.kernel.agent.cluster import DUAL, NETNS, Cluster, Pod
from tests.kernel.agent.services import NODE_PORT, services
from tests.kernel.service_world import Seen
from tests.waiting import until

OUTSIDE, NODE = "192.168.0.254", "192.168.0.1"


def mapping(port: int, protocol: str = "tcp", **more: object) -> dict[str, object]:
    return {"hostPort": port, "containerPort": 8080, "protocol": protocol, **more}


@pytest.mark.parametrize("enabled", [True, False], ids=["services", "no services"])
def test_who_reaches_a_host_port_and_whom_the_pod_sees(cluster: Cluster, enabled: bool) -> None:
    with services(cluster, 1, services={"enabled": enabled}) as (world, (node,)):
        pod = world.serving(node.pod("a", portMappings=[mapping(81), mapping(81, "UDP"), mapping(82, hostIP=NODE)]))
        other = node.pod("b")
        for protocol in ("TCP", "UDP"):
            assert world.ask("switch", NODE, 81, protocol) == Seen("endpoints", "a", OUTSIDE), (
                "at once, the source kept"
            )
            assert world.ask("n1", NODE, 81, protocol) == Seen("endpoints", "a", NODE)
            assert world.ask("b", NODE, 81, protocol) == Seen("endpoints", "a", other.addresses[0])
            itself = world.ask("a", NODE, 81, protocol)
            assert itself.who == "a"
            assert itself.client != pod.addresses[0], "its own answer would never come back"
        assert world.ask("switch", NODE, 82) == Seen("endpoints", "a", OUTSIDE)
        assert world.ask("n1", "127.0.0.1", 81).who == "a", "as with portmap"
        assert world.ask("n1", "127.0.0.1", 82).action == "reject", "it is another address"
        node.ip("address", "add", "192.168.0.77/24", "dev", "eth0")
        assert world.ask("switch", "192.168.0.77", 81).who == "a"
        assert world.ask("switch", "192.168.0.77", 82).action == "reject", "it is another address"


def test_a_port_at_the_loopback_of_ipv6_has_only_clients_to_which_replies_come_back(cluster: Cluster) -> None:
    cluster.network = DUAL
    with services(cluster, 1, ipv6=True) as (world, (node,)):
        world.serving(node.pod("a", portMappings=[mapping(84, hostIP="::1")]))
        assert world.ask("n1", "::1", 84, source=("fd00::1", 0)) == Seen("endpoints", "a", "fd00::1")
        assert world.ask("n1", "::1", 84).action == "reject"
        assert world.ask("n1", "fd00::1", 84).action == "reject", "it is another address"


def test_a_host_port_lasts_from_add_to_del_whatever_becomes_of_the_agent(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        pod = world.serving(node.pod("a", portMappings=[mapping(81)]))
        node.stop(signal.SIGKILL)
        assert world.ask("switch", NODE, 81).who == "a"
        node.start()
        assert world.ask("switch", NODE, 81).who == "a"
        assert world.ask("n1", "127.0.0.1", 81).who == "a"
        node.sh("nft", "delete", "table", "inet", "percale")
        until(lambda: world.ask("switch", NODE, 81).who == "a")
        pod.cni("DEL")
        until(lambda: world.ask("switch", NODE, 81).action == "reject", "the port is closed")
        world.serving(node.pod("b", portMappings=[mapping(81)]))
        assert world.ask("switch", NODE, 81).who == "b"


def test_a_port_that_another_pod_has_is_an_error_that_says_so(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        world.serving(node.pod("a", portMappings=[mapping(81)]))
        cluster.namespace("b")
        refused = Pod(node, "b", runtime={"portMappings": [mapping(81)]}).launch("ADD")
        output = refused.communicate(timeout=60)[0]
        assert refused.returncode == 1
        assert json.loads(output)["msg"] == "pod default/b: host port 81/TCP is taken; pod default/a has it"
        assert world.ask("switch", NODE, 81).who == "a"


@pytest.mark.parametrize("enabled", [True, False], ids=["services", "no services"])
def test_datagrams_go_to_whoever_has_the_port_now(cluster: Cluster, enabled: bool) -> None:
    """From one source port, as syslog and statsd do: the flow outlives the pod that it went to."""
    with services(cluster, 1, services={"enabled": enabled}) as (world, (node,)):
        asks: dict[str, Callable[[int], Seen]] = {
            "outside": lambda port: world.ask("switch", NODE, port, "UDP", source=(OUTSIDE, 5353)),
            "its node": lambda port: world.ask("n1", NODE, port, "UDP", source=(NODE, 5353)),
        }
        both = [mapping(81, "udp"), mapping(82, "udp", hostIP=NODE)]
        for name, ask in asks.items():
            assert ask(81).action == ask(82).action == "reject", f"{name}: a flow begins before there is a pod"
        first = world.serving(node.pod("a", portMappings=both))
        for name, ask in asks.items():
            for port in (81, 82):
                until(lambda ask=ask, port=port: ask(port).who == "a", f"{name}: a has come")  # type: ignore[misc]
        first.cni("DEL")
        for name, ask in asks.items():
            for port in (81, 82):
                until(lambda ask=ask, port=port: ask(port).action == "reject", f"{name}: a is gone")  # type: ignore[misc]
        world.serving(node.pod("b", portMappings=both))
        for name, ask in asks.items():
            for port in (81, 82):
                until(lambda ask=ask, port=port: ask(port).who == "b", f"{name}: b has come")  # type: ignore[misc]


def test_datagrams_of_others_go_on(cluster: Cluster) -> None:
    """What a pod sends to the same port elsewhere is no host port's matter."""
    with services(cluster, 1) as (world, (node,)):
        client = node.pod("client")
        world.answering.listen(NETNS / "switch", "outside")
        source = (client.addresses[0], 5353)
        seen = world.ask("client", OUTSIDE, 8080, "UDP", source=source)
        assert seen.who == "outside"
        flow = node.sh("conntrack", "-L", "-p", "udp", "--orig-port-dst", "8080", "-o", "id")
        node.pod("a", portMappings=[mapping(8080, "udp")])
        world.serving(node.pod("b", portMappings=[mapping(83, "udp")]))
        until(lambda: world.ask("switch", NODE, 83, "UDP").who == "b")
        after = node.sh("conntrack", "-L", "-p", "udp", "--orig-port-dst", "8080", "-o", "id")
        assert flow.split("id=")[1] == after.split("id=")[1], "it is the same flow"


def test_a_port_at_loopback_alone_goes_to_whoever_has_it_now(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        only_here = [mapping(84, "udp", hostIP="127.0.0.1")]

        def ask() -> Seen:
            return world.ask("n1", "127.0.0.1", 84, "UDP", source=(NODE, 5353))

        first = world.serving(node.pod("a", portMappings=only_here))
        until(lambda: ask().who == "a", "a has come")
        first.cni("DEL")
        until(lambda: ask().action == "reject", "a is gone")
        world.serving(node.pod("b", portMappings=only_here))
        until(lambda: ask().who == "b", "b has come")


def test_datagrams_of_a_node_port_of_the_same_number_go_on(cluster: Cluster) -> None:
    """It comes first: a host port that opens and closes is nothing to its clients, nor is an agent that finds one open."""
    with services(cluster, 1) as (world, (node,)):
        endpoint = world.serving(node.pod("endpoint"))
        world.service()
        world.slice(endpoint)

        def ask(port: int) -> Seen:
            return world.ask("switch", NODE, port, "UDP", source=(OUTSIDE, 5353))

        def flow() -> str:
            listed = node.sh("conntrack", "-L", "-p", "udp", "--orig-port-dst", str(NODE_PORT), "-o", "id", check=False)
            return listed.partition("id=")[2]

        until(lambda: ask(NODE_PORT).who == "endpoint")
        before = flow()
        assert before
        ports = [mapping(NODE_PORT, "udp"), mapping(NODE_PORT, "udp", hostIP=NODE), mapping(81, "udp")]
        pod = world.serving(node.pod("a", portMappings=ports))
        until(lambda: ask(81).who == "a", "it is open")
        assert flow() == before
        node.stop(signal.SIGKILL)
        node.start()
        pod.cni("DEL")
        until(lambda: ask(81).action == "reject", "the flows of its ports are forgotten")
        assert flow() == before
        assert ask(NODE_PORT).who == "endpoint"
