"""`backend: none`: policies over the reference plugins bridge + host-local, and over routed pods, nothing of which is touched."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from tests.kernel.agent.cluster import NETNS, Cluster, Node, sh
from tests.kernel.flows import FAMILIES, Wire
from tests.kernel.inside import inside
from tests.waiting import until

from percale.kernel.netlink.conntrack import Conntrack, EntryFilter
from percale.render.policy.base_chains import CUT_MARK

PLUGINS = Path("/usr/lib/cni")
CLOSED = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {{app: {name}}}}}
spec: {{nodeName: {node}, containers: [{{name: main, image: none}}]}}
status: {{phase: Running, podIPs: [{addresses}]}}
"""


def bridged(node: Node, name: str) -> list[str]:
    """A pod wired by bridge + host-local, as flannel's configuration has it."""
    node.cluster.namespace(name)
    configuration = {
        "cniVersion": "1.0.0",
        "name": "theirs",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(node.directory / "host-local"),
            "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": name,
        "CNI_NETNS": str(NETNS / name),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(PLUGINS),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    done = subprocess.run(
        ["nsenter", f"--net={NETNS / node.name}", str(PLUGINS / "bridge")],
        input=json.dumps(configuration),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return [each["address"].partition("/")[0] for each in json.loads(done.stdout)["ips"]]


def routed(node: Node, name: str, number: int) -> list[str]:
    """A pod behind a veth pair of its own, as Calico wires it."""
    node.cluster.namespace(name)
    addresses = [f"10.88.0.{number}", f"fd00:88::{number}"]
    node.ip("link", "add", f"cali{number}", "type", "veth", "peer", "name", "eth0", "netns", str(NETNS / name))
    node.ip("address", "add", "169.254.7.1/32", "dev", f"cali{number}")
    node.ip("address", "add", "fe80::1/64", "dev", f"cali{number}", "nodad")
    node.ip("link", "set", f"cali{number}", "up")
    sh(name, "ip", "link", "set", "eth0", "up")
    sh(name, "ip", "link", "set", "lo", "up")
    for address in addresses:
        node.ip("route", "add", address, "dev", f"cali{number}")
        sh(name, "ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
    sh(name, "ip", "route", "add", "169.254.7.1", "dev", "eth0")
    sh(name, "ip", "route", "add", "default", "via", "169.254.7.1")
    sh(name, "ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
    return addresses


def declare(node: Node, name: str, addresses: list[str]) -> None:
    listed = ", ".join(f'{{ip: "{address}"}}' for address in addresses)
    text = POD.format(name=name, node=node.name, addresses=listed)
    (node.cluster.store / f"{name}.yaml").write_text(text)


def forward(node: Node) -> None:
    node.sh("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")


def theirs(node: Node) -> list[str]:
    """Links, addresses, routes, and every rule that is not in our table, without counters and lifetimes."""
    tables = node.sh("nft", "list", "tables").splitlines()
    return [
        node.ip("-o", "link").replace("state LOWERLAYERDOWN", ""),
        node.ip("-o", "-6", "address", "show"),
        node.ip("-o", "address", "show"),
        node.ip("route", "show", "table", "all"),
        node.ip("-6", "route", "show", "table", "all"),
        *(node.sh("nft", "-s", "list", *table.split()) for table in tables if table != "table inet percale"),
    ]


def serving(name: str) -> socket.socket:
    """A server at port 8080 of a pod, of both families: the kernel takes connections."""
    family = socket.AF_INET6
    return inside(
        NETNS / name, lambda: socket.create_server(("::", 8080), family=family, dualstack_ipv6=True, backlog=4096)
    )


def connects(name: str, address: str) -> bool:
    with inside(NETNS / name, lambda: socket.socket(FAMILIES[6 if ":" in address else 4])) as client:
        client.settimeout(0.5)
        try:
            client.connect((address, 8080))
        except OSError:
            return False
    return True


def refused(name: str, address: str) -> bool:
    return not connects(name, address)


def pings(name: str, address: str) -> bool:
    return "1 received" in sh(name, "ping", "-n", "-c1", "-W1", address, check=False)


def unmark(node: Node) -> None:
    """Take the mark from every flow of the node."""
    with closing(inside(NETNS / node.name, Conntrack)) as conntrack:
        assert conntrack.mark(list(conntrack.flows(EntryFilter(marked=CUT_MARK))), 0, CUT_MARK) == [None]


def policy_node(cluster: Cluster) -> Node:
    node = cluster.node(1, backend="none")
    forward(node)
    return node


@pytest.mark.parametrize("wiring", ["bridged", "routed"])
def test_policies_hold_over_another_plugin_and_touch_nothing_of_it(cluster: Cluster, wiring: str) -> None:
    node = policy_node(cluster)
    pods = {
        name: bridged(node, name) if wiring == "bridged" else routed(node, name, number)
        for number, name in enumerate(("server", "friend", "stranger"), 2)
    }
    for name, addresses in pods.items():
        declare(node, name, addresses)
    for address in pods["server"]:
        until(partial(pings, "friend", address))
    until(lambda: "tentative" not in node.ip("-6", "address"), "the addresses are settled")
    before = theirs(node)
    with serving("server"):
        node.start()
        assert all(connects("stranger", address) for address in pods["server"])
        (cluster.store / "closed.yaml").write_text(CLOSED)
        for address in pods["server"]:
            until(partial(refused, "stranger", address), "the policy holds")
            assert connects("friend", address)
        sh("server", "ping", "-c1", "-W1", pods["stranger"][0])
        (cluster.store / "closed.yaml").unlink()
        for address in pods["server"]:
            until(partial(connects, "stranger", address), "the policy is gone")
    node.stop()
    assert theirs(node) == before
    assert ("bridged packets are filtered" in node.log) == (wiring == "bridged")


def test_an_established_connection_through_their_bridge_is_cut(cluster: Cluster) -> None:
    node = policy_node(cluster)
    for name in ("server", "stranger"):
        declare(node, name, bridged(node, name))
    policy = cluster.store / "pods-see-bridges.yaml"
    policy.write_text(CLOSED.replace("app: friend", "app: stranger"))
    node.start()
    with serving("server") as listener, inside(NETNS / "stranger", socket.socket) as client:
        client.connect(("10.88.0.2", 8080))
        with closing(Wire(client, listener.accept()[0])) as wire:
            assert wire.passes()
            assert wire.passes(answers=True)
            policy.write_text(CLOSED)
            until(wire.stalls, "the connection is cut")
            until(lambda: "flows cut" in node.log)
            assert "pod=default/server by=np:default/closed" in node.log
            node.stop(signal.SIGKILL)
            unmark(node)  # as if it had been killed before it marked
            until(wire.passes, "nobody cuts it")
            node.start()
            until(wire.stalls, "what changed meanwhile is judged")


def test_it_says_what_it_is_and_whom_it_guards(cluster: Cluster) -> None:
    node = policy_node(cluster)
    declare(node, "server", bridged(node, "server"))
    node.start()
    until(lambda: node.status.pods)
    (pod,) = node.status.pods
    assert (pod.pod, pod.addresses) == ("default/server", ("10.88.0.2", "fd00:88::2"))
    assert node.status.backend == "none"
    assert not node.status.peers
    shown = node.percale("status", "--http", node.http).stdout
    assert "policies only" in shown
    assert "default/server" in shown
    assert not (node.directory / "net.d").exists()


def test_a_pod_that_no_device_leads_to_is_a_problem(cluster: Cluster) -> None:
    """Its packets pass none of our rules; somebody must know."""
    node = policy_node(cluster)
    declare(node, "server", ["10.99.0.9"])
    (cluster.store / "closed.yaml").write_text(CLOSED)
    node.start()
    until(lambda: node.status.problems)
    (problem,) = node.status.problems
    assert "pod default/server: no device of this node leads to 10.99.0.9" in problem.error
    declare(node, "server", bridged(node, "server"))
    until(lambda: not node.status.problems)


def test_a_restarted_agent_finds_all_in_place(cluster: Cluster) -> None:
    node = policy_node(cluster)
    pods = {name: bridged(node, name) for name in ("server", "stranger")}
    for name, addresses in pods.items():
        declare(node, name, addresses)
    (cluster.store / "closed.yaml").write_text(CLOSED)
    node.start()
    with serving("server"):
        assert not connects("stranger", "10.88.0.2")
        node.stop()
        assert not connects("stranger", "10.88.0.2")
        node.start()
        assert not connects("stranger", "10.88.0.2")
