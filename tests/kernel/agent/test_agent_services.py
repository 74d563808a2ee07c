"""Services by real agents: what a change of endpoints does to clients, and what becomes of services without their agent."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from tests import builders
from tests.kernel.agent.cluster import NETNS, Cluster, Node, Pod
from tests.kernel.agent.services import BOTH_PORTS, NODE_PORT, VIP, Services, services
from tests.kernel.inside import inside
from tests.kernel.service_world import TARGET, Seen
from tests.waiting import PATIENCE, until

N1 = "192.168.0.1"


def programmed(node: Node, *pods: Pod) -> None:
    """The node's maps have these endpoints, and no others."""
    wanted = {pod.addresses[0] for pod in pods}

    def there() -> bool:
        listed = json.loads(node.sh("nft", "-j", "list", "map", "inet", "percale-services", "endpoints4"))
        elements = next(each["map"] for each in listed["nftables"] if "map" in each).get("elem", [])
        return {value["concat"][0] for _, value in elements} == wanted

    until(there, f"{node.name} has {sorted(wanted)}")


@contextmanager
def talking(world: Services, client: str, target: str, port: int) -> Iterator[socket.socket]:
    """A connection that stays open to a listener that never answers."""
    with closing(inside(NETNS / client, lambda: socket.create_connection((target, port), timeout=5))) as wire:
        yield wire


def test_services_begin_and_end(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        pods = [world.serving(node.pod(name)) for name in "ab"]
        world.service()
        world.slice(*pods)
        until(lambda: world.ask("switch", N1, NODE_PORT).who)
        assert world.ask("a", VIP, 80).who in "ab"
        world.slice()
        until(lambda: world.ask("switch", N1, NODE_PORT).action == "reject")
        until(lambda: world.ask("a", VIP, 80).action == "reject")
        world.remove("service-web")
        until(lambda: world.ask("a", VIP, 80).action == "drop", "the address is free again, and nobody's")


def test_datagrams_leave_an_endpoint_that_is_gone(cluster: Cluster) -> None:
    """From one source port, as resolvers and syslog do, by the cluster IP and by the node port."""
    with services(cluster, 1) as (world, (node,)):
        a, b = (world.serving(node.pod(name)) for name in "ab")
        client = node.pod("client")
        world.service()
        world.slice(a)
        asks = {
            "cluster IP": lambda: world.ask("client", VIP, 80, "UDP", source=(client.addresses[0], 5353)),
            "node port": lambda: world.ask("switch", N1, NODE_PORT, "UDP", source=("192.168.0.254", 5353)),
            "its node": lambda: world.ask("n1", VIP, 80, "UDP", source=(N1, 5353)),
        }
        for ask in asks.values():
            until(lambda ask=ask: ask().who == "a")  # type: ignore[misc]
        world.slice(b)
        for name, ask in asks.items():
            until(lambda ask=ask: ask().who == "b", f"{name}: b answers")  # type: ignore[misc]
        world.slice()
        for name, ask in asks.items():
            until(lambda ask=ask: ask().action == "reject", f"{name}: nobody is left")  # type: ignore[misc]
        world.slice(a)
        for name, ask in asks.items():
            until(lambda ask=ask: ask().who == "a", f"{name}: a is back")  # type: ignore[misc]


def test_datagrams_stay_with_an_endpoint_that_still_serves_and_tcp_is_left_alone(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        a, b = (world.serving(node.pod(name)) for name in "ab")
        client = node.pod("client")
        world.service()
        world.slice(a)
        source = (client.addresses[0], 5353)
        until(lambda: world.ask("client", VIP, 80, "UDP", source=source).who == "a")
        listener = inside(NETNS / "a", lambda: socket.create_server((a.addresses[0], 9090)))
        with listener, talking(world, "client", a.addresses[0], 9090):
            world.slice(b, draining=(a,))
            programmed(node, b)
            assert world.ask("client", VIP, 80).who == "b", "new connections go to who is ready"
            assert world.ask("client", VIP, 80, "UDP", source=source).who == "a"
            world.slice(b)
            until(lambda: world.ask("client", VIP, 80, "UDP", source=source).who == "b")
            assert "dport=9090" in node.sh("conntrack", "-L", "-p", "tcp", check=False)


def test_clients_of_a_removed_endpoint_get_another(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        pods = [world.serving(node.pod(name)) for name in "abc"]
        world.service(sessionAffinity="ClientIP")
        world.slice(*pods)
        first = until(lambda: world.ask("switch", N1, NODE_PORT).who)
        assert {world.ask("switch", N1, NODE_PORT).who for _ in range(20)} == {first}
        world.slice(*(pod for pod in pods if pod.name != first))
        second = until(lambda: (who := world.ask("switch", N1, NODE_PORT).who) != first and who)
        until(lambda: {world.ask("switch", N1, NODE_PORT).who for _ in range(20)} == {second})
        node.stop(signal.SIGKILL)
        node.start()
        assert {world.ask("switch", N1, NODE_PORT).who for _ in range(20)} == {second}, "a restart forgets nobody"


def test_an_agent_that_was_away_forgets_clients_of_what_went_meanwhile(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        pods = [world.serving(node.pod(name)) for name in "ab"]
        world.service(sessionAffinity="ClientIP")
        world.slice(*pods)
        first = until(lambda: world.ask("switch", N1, NODE_PORT).who)
        node.stop()
        world.slice(*(pod for pod in pods if pod.name != first))
        node.start()
        until(lambda: world.ask("switch", N1, NODE_PORT).who not in ("", first))


def test_fewest_connections(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        a, b = (world.serving(node.pod(name)) for name in "ab")
        world.service(annotations={"percale.io/strategy": "lc"})
        world.slice(a, b)
        until(lambda: world.ask("switch", N1, NODE_PORT).who)
        world.answering.pause()
        try:
            held = [inside(NETNS / "n1", lambda: socket.create_connection((a.addresses[0], TARGET))) for _ in range(30)]
            until(
                lambda: (
                    node.sh("nft", "list", "map", "inet", "percale-services", "endpoints4").count(b.addresses[0]) > 5
                )
            )
        finally:
            world.answering.go_on()
        found = Counter(world.ask("switch", N1, NODE_PORT).who for _ in range(100))
        assert found["a"] <= 40, "10 are expected while the 30 are held"
        for wire in held:
            wire.close()


def test_health_checks(cluster: Cluster) -> None:
    with services(cluster, 1, 2) as (world, (one, _)):
        pod = world.serving(one.pod("a"))

        def check(node: str) -> tuple[int, str, dict[str, object]]:
            def fetch() -> tuple[int, str, dict[str, object]]:
                request = f"http://192.168.0.{node[1:]}:32100/healthz"
                try:
                    answer = urllib.request.urlopen(request, timeout=2)
                except urllib.error.HTTPError as error:
                    answer = error
                with answer:
                    weight = answer.headers["X-Load-Balancing-Endpoint-Weight"]
                    return answer.status or 0, weight, json.loads(answer.read())

            return inside(NETNS / "switch", fetch)

        def opened() -> bool:
            try:
                return bool(check("n1") and check("n2"))
            except OSError:
                return False

        spec: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100}
        world.service(**spec)
        world.slice(pod)
        until(opened)
        service = {"namespace": "default", "name": "web"}
        here = (200, "1", {"service": service, "localEndpoints": 1, "serviceProxyHealthy": True})
        none = (503, "0", {"service": service, "localEndpoints": 0, "serviceProxyHealthy": True})
        until(lambda: check("n1") == here)
        assert check("n2") == none
        world.service(annotations={"touched": "and nothing else"}, **spec)
        world.slice(draining=(pod,))
        until(lambda: check("n1") == none, "it still serves, and wants no more clients")
        assert check("n2") == none, "what changes nothing closes no port"
        world.remove("service-web")
        until(lambda: not opened(), "the port is closed")


def test_an_agent_that_starts_over_a_right_table_writes_nothing_and_breaks_nothing(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        a = world.serving(node.pod("a"))
        node.pod("client")
        world.service(sessionAffinity="ClientIP")
        world.slice(a)
        until(lambda: world.ask("client", VIP, 80).who)
        listener = inside(NETNS / "a", lambda: socket.create_server((a.addresses[0], 9090)))
        with listener, talking(world, "client", a.addresses[0], 9090) as wire:
            far, _ = listener.accept()
            with far:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    node.stop(number)
                    assert world.ask("client", VIP, 80).who == "a"
                    before = len(node.log)
                    node.start("-v")
                    assert "table inet percale" not in node.log[before:]
                    assert "inet percale" not in "".join(
                        line for line in node.log[before:].splitlines() if "nft" in line
                    )
                    wire.sendall(b"still here")
                    assert far.recv(16) == b"still here"


def test_a_flushed_table_is_restored(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        world.service()
        world.slice(world.serving(node.pod("a")))
        until(lambda: world.ask("switch", N1, NODE_PORT).who)
        for flush in (
            ("delete", "table", "inet", "percale-services"),
            ("flush", "map", "inet", "percale-services", "endpoints4"),
        ):
            node.sh("nft", *flush)
            until(lambda: world.ask("switch", N1, NODE_PORT).who == "a")


def test_clients_that_sent_while_the_tables_were_missing_arrive(cluster: Cluster) -> None:
    """Their conntrack entries lead to where they sent to, and their next packets stay on those."""
    with services(cluster, 1) as (world, (node,)):
        node.ip("route", "replace", "default", "via", "192.168.0.254")
        host_port = {"hostPort": 81, "containerPort": 8080, "protocol": "udp"}
        a, client = world.serving(node.pod("a", portMappings=[host_port])), node.pod("client")
        world.service()
        world.slice(a)
        until(lambda: world.ask("client", VIP, 80).who)
        asks: dict[str, Callable[[], Seen]] = {
            "cluster IP": lambda: world.ask("client", VIP, 80, "UDP", source=(client.addresses[0], 5353)),
            "host port": lambda: world.ask("switch", N1, 81, "UDP", source=("192.168.0.254", 5353)),
        }
        pid = node.status.pid
        os.kill(pid, signal.SIGSTOP)
        for table in ("percale-services", "percale"):  # others are left, which keep conntrack on
            node.sh("nft", "delete", "table", "inet", table)
        with closing(inside(NETNS / "client", lambda: socket.socket(socket.AF_INET))) as connecting:
            connecting.setblocking(False)
            connecting.connect_ex((VIP, 80))
            for name, ask in asks.items():
                assert not ask().who, name
            assert re.search(rf"SYN_SENT .*dst={VIP} ", node.sh("conntrack", "-L", "-p", "tcp"))
            os.kill(pid, signal.SIGCONT)
            for name, ask in asks.items():
                until(lambda ask=ask: ask().who == "a", f"{name}: a answers")  # type: ignore[misc]
            connecting.settimeout(PATIENCE)
            assert connecting.recv(64).decode().startswith("a "), "its next attempt is translated"


def test_a_rolling_update_fails_no_connection(cluster: Cluster) -> None:
    """Old pods drain: they are out of the maps before they end, as a pod's grace period wants it."""
    with services(cluster, 1, 2) as (world, (one, two)):
        pods = [world.serving((one, two)[index % 2].pod(f"old{index}")) for index in range(3)]
        client = one.pod("client")
        world.service()
        world.slice(*pods)
        for node in (one, two):
            programmed(node, *pods)
        ends = threading.Event()
        seen: list[Seen] = []

        asked = Counter({client.name: 0, "switch": 0})

        def ask_on(name: str, target: str, port: int) -> None:
            while not ends.is_set():
                seen.append(world.ask(name, target, port))
                asked[name] += 1

        def each_asks(times: int) -> None:
            enough = {name: count + times for name, count in asked.items()}
            until(lambda: all(asked[name] >= count for name, count in enough.items()))

        asking = [
            threading.Thread(target=ask_on, args=(client.name, VIP, 80)),
            threading.Thread(target=ask_on, args=("switch", "192.168.0.2", NODE_PORT)),
        ]
        for thread in asking:
            thread.start()
        try:
            for index in range(3):
                new = world.serving((two, one)[index % 2].pod(f"new{index}"))
                world.slice(*pods, new)
                for node in (one, two):
                    programmed(node, *pods, new)
                old = pods.pop(0)
                pods.append(new)
                world.slice(*pods, draining=(old,))
                for node in (one, two):
                    programmed(node, *pods)
                world.slice(*pods)
                each_asks(20)  # a grace period: what was on its way to the old pod has its answer
                old.cni("DEL")
        finally:
            ends.set()
            for thread in asking:
                thread.join()
        assert {each.action for each in seen} == {"endpoints"}
        assert {each.who for each in seen} == {f"{age}{index}" for age in ("old", "new") for index in range(3)}


def test_what_is_wrong_with_one_service_is_one_problem_and_the_others_are_served(cluster: Cluster) -> None:
    with services(cluster, 1) as (world, (node,)):
        pod = world.serving(node.pod("a"))
        client = node.pod("client")
        world.service()
        world.slice(pod)
        until(lambda: world.ask(client.name, VIP, 80).who)
        ports = [{"name": "tcp", "port": 80, "targetPort": 8080}]

        def other(name: str, number: int, **fields: object) -> None:
            world.service(name, type="ClusterIP", clusterIP=f"10.96.0.{number}", ports=ports, **fields)
            world.slice(pod, service=name)

        def problems() -> dict[str, str]:
            return {each.source: each.error for each in node.status.problems}

        other("fast", 20, annotations={"percale.io/strategy": "fastest"})
        other("heavy", 21, annotations={"percale.io/strategy": "wrr", "percale.io/weights": "much"})
        other("first", 22, externalIPs=["198.51.100.9"])
        other("later", 23, externalIPs=["198.51.100.9"])
        other("odd", 24)
        endpoints = (f"{pod.addresses[0]}@{node.name}", "fd00::1")
        world.write("slice-odd", builders.endpoint_slice("odd", *endpoints, ports=BOTH_PORTS, family="IPv4"))
        wanted = {
            "service default/fast": 'Service default/fast: percale.io/strategy: unknown strategy "fastest" '
            "(there are random, rr, wrr, sh, mh, lc); random is used",
            "service default/later": "Service default/later: 198.51.100.9:80/TCP belongs to Service default/first",
            "service default/odd": 'EndpointSlice default/odd-1: endpoints[1].addresses[0]: "fd00::1" is not an IPv4 address',
        }
        until(lambda: problems().keys() == {*wanted, "service default/heavy"})
        found = problems()
        assert found.pop("service default/heavy").startswith("Service default/heavy: percale.io/weights:")
        assert found == wanted
        served = {world.ask(client.name, f"10.96.0.{number}", 80).who for number in range(20, 25)}
        assert served == {"a"}, "with what is right of each"
        assert world.ask(client.name, VIP, 80).who == "a"
        since = {each.source: each.since for each in node.status.problems}
        world.remove("service-first")
        until(lambda: problems().keys() == since.keys() - {"service default/later"})
        assert {each.since for each in node.status.problems} <= set(since.values()), "the others' are no news"
        assert world.ask(client.name, "198.51.100.9", 80).who == "a"


def test_a_node_that_asks_itself_under_policy_local_gets_its_answer_where_reverse_paths_are_filtered(
    cluster: Cluster,
) -> None:
    """It is seen with its own address, unless the answer, which comes past the tunnel, would be dropped."""
    with services(cluster, 1, 2) as (world, (one, two)):
        far = world.serving(two.pod("far"))
        world.service(externalTrafficPolicy="Local")
        world.slice(far)

        def seen() -> Seen:
            return world.ask("n1", N1, NODE_PORT)

        until(lambda: seen() == Seen("endpoints", "far", N1))
        one.sh("sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1")
        until(lambda: seen() == Seen("drop"))
        one.stop()
        one.start()
        until(lambda: seen() == Seen("endpoints", "far", "10.244.1.0"))
        one.sh("sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=2")
        one.stop()
        one.start()
        until(lambda: seen() == Seen("endpoints", "far", N1))
        one.stop()
        one.settings["services"] = {**one.settings["services"], "masqueradeAll": True}
        one.start()
        until(lambda: seen() == Seen("endpoints", "far", "10.244.1.0"))
