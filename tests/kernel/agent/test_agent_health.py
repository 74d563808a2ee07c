"""The responses of a real agent to a load balancer at :10256, and the metrics of its Services."""

from __future__ import annotations

import json
import re
import resource
import shutil
import socket
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests import builders
from tests.kernel.agent.cluster import NETNS, Cluster, Node, sh
from tests.kernel.agent.services import NODE_PORT, Services, services
from tests.kernel.inside import inside
from tests.waiting import until

N1 = "192.168.0.1"
AUTOSCALER = "ToBeDeletedByClusterAutoscaler"


def get(world: Services, path: str, at: str = N1) -> tuple[int, dict[str, Any]]:
    """Status and body, asked from outside; status 0 when nobody listens."""

    def fetch() -> tuple[int, dict[str, Any]]:
        try:
            answer = urllib.request.urlopen(f"http://{at}:10256/{path}", timeout=2)
        except urllib.error.HTTPError as error:
            answer = error
        except OSError:
            return 0, {}
        with answer:
            return answer.status or 0, json.loads(answer.read())

    return inside(NETNS / "switch", fetch)


def codes(world: Services) -> tuple[int, int]:
    return get(world, "healthz")[0], get(world, "livez")[0]


def metric_values(node: Node) -> dict[str, float]:
    text = node.sh("curl", "-s", "--unix-socket", node.http.removeprefix("unix:"), "http://agent/metrics")
    return {name: float(value) for name, value in re.findall(r"^(percale_\S+) (\S+)$", text, re.MULTILINE)}


def test_a_load_balancer_asks_whether_the_node_is_to_have_clients(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        code, said = get(world, "healthz")
        assert (code, said["nodeEligible"], said["healthy"]) == (200, True, True)
        assert said["lastUpdated"] == said["currentTime"]
        assert codes(world) == (200, 200)
        for own in ("127.0.0.1", "[::1]"):
            assert "nodeEligible" in node.sh("curl", "-sgf", f"http://{own}:10256/livez"), "at all addresses"
        leaving: list[dict[str, Any]] = [{"taints": (AUTOSCALER,)}, {"deletionTimestamp": "2026-01-01T00:00:00Z"}]
        for metadata in leaving:
            world.node(1, **metadata)
            until(lambda: codes(world) == (503, 200), str(metadata))
            assert get(world, "healthz")[1]["nodeEligible"] is False
            world.node(1, taints=("node.kubernetes.io/unschedulable",))
            until(lambda: codes(world) == (200, 200), "a cordoned node stays")
        node.stop()
        assert codes(world) == (0, 0)


def test_a_node_whose_rules_are_not_in_force_wants_no_clients(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here because nft is not there, until it is."""
    (tmp_path / "nsenter").symlink_to(shutil.which("nsenter") or "")
    nft = shutil.which("nft") or ""
    with services(cluster) as (world, _):
        world.node(1)
        node = cluster.node(1)
        with monkeypatch.context() as poorer:
            poorer.setenv("PATH", str(tmp_path))
            node.launch()
        until(lambda: codes(world) == (503, 503))
        said = get(world, "healthz")[1]
        assert (said["healthy"], said["nodeEligible"], said["lastUpdated"]) == (False, True, None)
        assert not node.status.ready
        (tmp_path / "nft").symlink_to(nft)
        until(lambda: codes(world) == (200, 200))


def test_an_address_that_another_proxy_still_has_is_taken_when_it_is_free(cluster: Cluster) -> None:
    with services(cluster) as (world, _):
        world.node(1)
        node = cluster.node(1)
        with inside(NETNS / "n1", lambda: socket.create_server(("", 10256))):
            node.start()
            problem = next(each for each in node.status.problems if each.source == "services.healthz")
            assert problem.error == (
                "services.healthz *:10256: cannot listen: Address already in use; retried until it is free"
            )
        until(lambda: codes(world) == (200, 200))
        assert not node.status.problems


def test_what_others_ask_kube_proxy_for_on_the_node(cluster: Cluster) -> None:
    """From the node alone; connections that are idle or half closed stay as long as with kube-proxy."""
    with services(cluster, 1) as (_, (node,)):
        assert node.sh("curl", "-sf", "http://localhost:10249/proxyMode") == "nftables"
        assert "percale_service_programming_seconds" in node.sh("curl", "-sf", "http://localhost:10249/metrics")
        assert sh("switch", "curl", "-s", "--max-time", "1", f"http://{N1}:10249/proxyMode", check=False) == ""
        for name, seconds in (("established", "86400"), ("close_wait", "3600")):
            timeout = f"net.netfilter.nf_conntrack_tcp_timeout_{name}"
            assert node.sh("sysctl", "-n", timeout).strip() == seconds
            node.sh("sysctl", "-w", f"{timeout}=60")
            until(lambda: node.sh("sysctl", "-n", timeout).strip() == seconds)  # noqa: B023


def test_nobody_listens_where_nobody_should(cluster: Cluster) -> None:
    with services(cluster, 1, services={"healthz": None}) as (world, _):
        assert codes(world) == (0, 0)


def test_who_holds_connections_open_keeps_nobody_out(cluster: Cluster) -> None:
    """Three times as many as the agent has descriptors: load balancers are answered, and pods are born."""
    with services(cluster, 1) as (world, (node,)), ExitStack() as down:
        assert node.process is not None
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (120, 120))
        for _ in range(360):
            held = inside(NETNS / "switch", lambda: socket.create_connection((N1, 10256)))
            down.callback(held.close)
            with suppress(ConnectionError):
                held.send(b"GET /healthz HTTP/1.1\r\n")
        until(lambda: codes(world) == (200, 200))
        assert node.pod("a").addresses


def test_figures_follow_what_is_in_force(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        a, b = (world.serving(node.pod(name)) for name in "ab")
        world.service()
        world.slice(a, b)
        until(lambda: world.ask("switch", N1, NODE_PORT).who)
        until(lambda: metric_values(node)["percale_service_programming_seconds_count"] >= 1, "the agent knows it, too")
        now = metric_values(node)
        assert now["percale_services"] == 1
        assert now['percale_service_ports{result="served"}'] == 2, "TCP and UDP"
        assert now["percale_service_endpoints"] == 4
        assert now['percale_service_events_total{kind="EndpointSlice"}'] == 1
        assert now["percale_service_last_programmed_timestamp_seconds"] > 0
        source = ("192.168.0.254", 5353)
        who = until(lambda: world.ask("switch", N1, NODE_PORT, "UDP", source=source).who)
        world.slice(*(pod for pod in (a, b) if pod.name != who))
        until(lambda: metric_values(node)["percale_flows_forgotten_total"] >= 1)
        world.slice()
        until(lambda: metric_values(node)['percale_service_ports{result="rejected"}'] == 2)
        world.service(externalIPs=["nowhere"])
        until(lambda: metric_values(node)["percale_service_problems"] == 1)
        world.remove("service-web")
        until(lambda: not metric_values(node)["percale_services"])
        get(world, "livez")
        assert metric_values(node)['percale_health_answers_total{code="200",path="livez"}'] == 1


def test_many_health_check_ports_leave_descriptors_for_pods(cluster: Cluster) -> None:
    """More than a process may open unless it asks for more: a Service's author opens one on each node."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    with ExitStack() as down:
        try:
            world, (node,) = down.enter_context(services(cluster, 1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        made = [
            builders.service(
                f"s{number}",
                type="LoadBalancer",
                clusterIP=f"10.96.{1 + number // 200}.{1 + number % 200}",
                externalTrafficPolicy="Local",
                healthCheckNodePort=32000 + number,
            )
            for number in range(500)
        ]
        world.write("many", *made)
        until(lambda: len(re.findall(r":32[0-4][0-9]{2}\b", node.sh("ss", "-Hltn"))) >= 500, "it listens")
        assert node.pod("a").addresses
