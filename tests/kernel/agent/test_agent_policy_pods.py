"""Policies and a pod's wires: under fire while it is born, forged sources, pods on a bridge, and what nodes send themselves."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from tests.kernel.agent.cluster import BIN, DUAL, NETNS, Cluster, Node, Pod, sh
from tests.kernel.agent.policies import DENY, PORT, Policies, allowing, flow, selecting, streams
from tests.kernel.agent.sniffing import Sniffer
from tests.kernel.inside import inside
from tests.kernel.streams import MAGIC, FlowOf, Streams
from tests.waiting import until

from percale.kernel.netlink.conntrack import Conntrack, EntryFilter
from percale.render.policy.base_chains import CUT_MARK

WIRINGS = pytest.mark.parametrize("wiring", ["routed", "bridge"])


@pytest.fixture
def policies(cluster: Cluster) -> Policies:
    return Policies(cluster)


def wired(cluster: Cluster, number: int, wiring: str) -> Node:
    node = cluster.node(number, ipv6=True)
    node.settings["cni"]["wiring"] = wiring
    return node


# A pod under fire


@WIRINGS
def test_not_one_packet_reaches_a_pod_that_is_born_under_fire(
    cluster: Cluster, policies: Policies, wiring: str
) -> None:
    here, there = (wired(cluster, number, wiring).start() for number in (1, 2))
    policies.policy("deny", DENY)
    policies.policy("friend", allowing("victim", "friend"))
    near, far, friend = policies.pod(here, "near"), policies.pod(there, "far"), policies.pod(there, "friend")
    address = str(ip_network(here.subnet)[99])
    policies.declare(here, "victim", wanted=address)
    flows = Streams(
        (FlowOf(each.addresses[0], address, PORT) for each in (near, far, friend)),
        {each.addresses[0]: NETNS / each.name for each in (near, far, friend)},
    )
    victim = Pod(here, "victim")
    cluster.namespace("victim")
    with closing(Sniffer("victim")) as sniffer, flows.going():
        until(lambda: flows.rounds > 50)
        assert victim.cni("ADD")["ips"][0]["address"].partition("/")[0] == address
        until(lambda: friend.addresses[0] in sniffer.look(), "the friend gets in")
        policies.declare(here, "victim", address)
        since = flows.rounds
        until(lambda: flows.rounds > since + 100)
        assert sniffer.look() == {friend.addresses[0]}


@pytest.mark.parametrize("version", [4, 6])
def test_what_waits_for_a_pod_on_the_bridge_does_not_pass_its_policies(
    cluster: Cluster, policies: Policies, version: int
) -> None:
    """A packet that came before the pod passed where no policy was; it waits for somebody to answer for its address."""
    cluster.network = DUAL
    here, there = (wired(cluster, number, "bridge").start() for number in (1, 2))
    policies.policy("deny", DENY)
    policies.policy("friend", allowing("victim", "friend"))
    far, friend = policies.pod(there, "far"), policies.pod(there, "friend")
    addresses = [str(ip_network(subnet)[99]) for subnet in here.status.subnets]
    address = next(each for each in addresses if ip_address(each).version == version)
    index = [4, 6].index(version)
    policies.declare(here, "victim", wanted=",".join(addresses))
    victim = Pod(here, "victim")
    cluster.namespace("victim")
    with closing(Sniffer("victim")) as sniffer:
        _send(far, address)
        until(lambda: "INCOMPLETE" in sh(here.name, "ip", "neigh", "show", address, "dev", "cni0"), "it waits")
        added = [each["address"].partition("/")[0] for each in victim.cni("ADD")["ips"]]
        assert added == addresses

        def friend_gets_in() -> bool:
            _send(friend, address)
            return friend.addresses[index] in sniffer.look()

        until(friend_gets_in, "the friend gets in")
        assert far.addresses[index] not in sniffer.look()


def _send(pod: Pod, address: str) -> None:
    """A datagram."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(inside(NETNS / pod.name, lambda: socket.socket(family, socket.SOCK_DGRAM))) as sender:
        sender.sendto(MAGIC, (address, PORT))


# Forged sources


@contextmanager
def forging(name: str, forged: list[str]) -> Iterator[None]:
    """The pod has these addresses too, where nobody answers for them."""
    for address in forged:
        sh(name, "ip", "address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
    yield
    for address in forged:
        sh(name, "ip", "address", "del", address, "dev", "lo")


@WIRINGS
def test_a_forged_source_that_a_policy_allows_gets_nowhere(cluster: Cluster, policies: Policies, wiring: str) -> None:
    cluster.network = DUAL
    here, there = (wired(cluster, number, wiring).start() for number in (1, 2))
    tunnels = [str(ip_network(subnet)[0]) for node in (here, there) for subnet in node.status.subnets]
    nodes = ["192.168.0.1", "192.168.0.2", "fd00::1", "fd00::2", *tunnels]
    policies.policy("deny", DENY)
    blocks = [{"ipBlock": {"cidr": f"{each}/{128 if ':' in each else 32}"}} for each in nodes]
    policies.policy("some", {**selecting("server"), "ingress": [{"from": [selecting("friend"), *blocks]}]})
    server, friend = policies.pod(here, "server"), policies.pod(there, "friend")
    forgers = [policies.pod(here, "near"), policies.pod(there, "far")]
    forged = [*friend.addresses, *nodes]
    true = streams((friend, server))
    with closing(Sniffer("server")) as sniffer, true.going():
        until(lambda: friend.addresses[0] in sniffer.look(), "the friend gets in")
    with closing(Sniffer("server")) as sniffer:
        for forger in forgers:
            with forging(forger.name, forged):
                targets = {4: server.addresses[0], 6: server.addresses[1]}
                flows = Streams(
                    (FlowOf(source, targets[ip_address(source).version], PORT) for source in forged),
                    dict.fromkeys(forged, NETNS / forger.name),
                )
                with flows.going():
                    until(lambda flows=flows: flows.rounds > 30)  # type: ignore[misc]
        assert not sniffer.look()


# Pods on a bridge


def test_policies_hold_between_pods_of_one_bridge(cluster: Cluster, policies: Policies) -> None:
    node = wired(cluster, 1, "bridge")
    node.sh("sh", "-c", "for each in /proc/sys/net/bridge/bridge-nf-call-*tables; do echo 0 > $each; done")
    node.start()
    policies.policy("deny", DENY)
    policies.policy("friend", allowing("server", "friend"))
    pods = {name: policies.pod(node, name) for name in ("server", "friend", "stranger")}
    flows = streams(*((pods[name], pods["server"]) for name in ("friend", "stranger")))
    with flows.going():
        flows.until_passing({flow(pods["friend"], pods["server"])})
        assert not flows.arrived(0, flows.rounds, [flow(pods["stranger"], pods["server"])])


def test_without_br_netfilter_it_says_what_is_not_enforced(cluster: Cluster, tmp_path: Path) -> None:
    """As on a kernel that has no such module: the setting is not there."""
    node = wired(cluster, 1, "bridge")
    config = node.write_config()
    hidden = f"mount -t tmpfs none /proc/sys/net/bridge && exec {BIN / 'percale'} agent --config {config}"
    with (node.directory / "log").open("ab") as log:
        node.process = subprocess.Popen(
            ["nsenter", f"--net={NETNS / node.name}", "unshare", "-m", "sh", "-c", hidden], stdout=log, stderr=log
        )
    node.wait_ready()
    assert node.pod("a").reaches(node.pod("b").addresses[0])
    (problem,) = until(lambda: node.status.problems)
    assert "bridge-nf-call-iptables" in problem.error
    assert "policies do not reach pods on bridges until the module is loaded: modprobe br_netfilter" in problem.error


# What nodes send themselves


def answers(source: str, name: str, target: str) -> Callable[[], bool]:
    """From the namespace of a node, by its address in the pod network."""
    return lambda: "1 received" in sh(name, "ping", "-n", "-c1", "-W1", "-I", source, target, check=False)


def marked(node: Node) -> set[str]:
    """Whose established connections are cut."""
    with closing(inside(NETNS / node.name, Conntrack)) as conntrack:
        return {str(ip_address(each.client)) for each in conntrack.flows(EntryFilter(marked=CUT_MARK))}


@WIRINGS
def test_a_nodes_address_in_the_pod_network_is_the_nodes(cluster: Cluster, policies: Policies, wiring: str) -> None:
    """A pod and its own node always reach each other; of another node policies say so by `nodes`, not by selectors."""
    here, there = (wired(cluster, number, wiring).start() for number in (1, 2))
    for node, address in ((here, "192.168.0.1"), (there, "192.168.0.2")):
        addresses = [{"type": "InternalIP", "address": address}]
        policies.put("Node", node.name, metadata={"labels": {"name": node.name}}, status={"addresses": addresses})
    server = policies.pod(here, "server")
    own, other = (str(ip_network(node.subnet)[0]) for node in (here, there))
    until(answers(other, "n2", server.addresses[0]), "the tunnel is up")
    assert answers(own, "n1", server.addresses[0])()
    policies.policy("deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    until(lambda: not answers(other, "n2", server.addresses[0])(), "another node is denied")
    until(lambda: marked(here) == {other}, "and only the other")
    assert answers(own, "n1", server.addresses[0])()
    assert server.reaches(own)
    assert not server.reaches(other)
    policies.remove("NetworkPolicy", "deny")
    meant = {"matchLabels": {"name": "n2"}}
    rules = [{"action": "Accept", "to": [{"nodes": meant}]}, {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}]
    subject = {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}
    policies.put(
        "ClusterNetworkPolicy", "out", spec={"tier": "Admin", "priority": 1, "subject": subject, "egress": rules}
    )
    until(lambda: not server.reaches("192.168.0.254"), "only nodes are allowed")
    assert server.reaches(other)
