"""Host ports through the real plugin and agent: who reaches them, whom the pod sees, and how long they last."""

from __future__ import annotations

import json
import signal

import pytest
from tests.kernel.agent.cluster import Cluster, Pod, until
from tests.kernel.agent.services import services
from tests.kernel.service_world import Seen

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
        assert world.ask("n1", "127.0.0.1", 81).action == "reject", "loopback stays the node's own"
        node.ip("address", "add", "192.168.0.77/24", "dev", "eth0")
        assert world.ask("switch", "192.168.0.77", 81).who == "a"
        assert world.ask("switch", "192.168.0.77", 82).action == "reject", "it is another address"


def test_a_host_port_lasts_from_add_to_del_whatever_becomes_of_the_agent(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        pod = world.serving(node.pod("a", portMappings=[mapping(81)]))
        node.stop(signal.SIGKILL)
        assert world.ask("switch", NODE, 81).who == "a"
        node.start()
        assert world.ask("switch", NODE, 81).who == "a"
        node.sh("nft", "delete", "table", "inet", "percale")
        until(lambda: world.ask("switch", NODE, 81).who == "a", within=2)
        pod.cni("DEL")
        until(lambda: world.ask("switch", NODE, 81).action == "reject", "the port is closed", within=2)
        world.serving(node.pod("b", portMappings=[mapping(81)]))
        assert world.ask("switch", NODE, 81).who == "b"


def test_a_port_that_another_pod_has_is_an_error_that_says_so(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        world.serving(node.pod("a", portMappings=[mapping(81)]))
        cluster.namespace("b")
        refused = Pod(node, "b", runtime={"portMappings": [mapping(81)]}).launch("ADD")
        output = refused.communicate(timeout=60)[0]
        assert refused.returncode == 1
        assert "host port 81/TCP is taken" in json.loads(output)["msg"]
        assert world.ask("switch", NODE, 81).who == "a"
