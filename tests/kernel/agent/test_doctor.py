"""Every check of a running node: none alarms on a healthy one; each sees what was broken, and what it says to type mends it."""

from __future__ import annotations

import ctypes
import fcntl
import json
import signal
import socket
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from docs.answers import documents
from tests.kernel.agent.cluster import NETNS, Cluster, Node, Pod, sh
from tests.kernel.inside import inside
from tests.waiting import until

from percale.checks.check import Outcome
from percale.checks.host import Host
from percale.checks.registry import HOST, RUNNING
from percale.kernel.netns import delete_namespace
from percale.model.netconf import network_config

LOOKS = {check.name: check.look for check in (*HOST, *RUNNING)}
WIRE = "nft add table bridge wire; nft add chain bridge wire way '{ type filter hook forward priority 0; }'"


def host(node: Node) -> Host:
    """A fresh one each time, for it reads once."""
    return Host(node.config, network_config(node.cluster.network))


def look(node: Node, check: str) -> Outcome:
    """What it finds there."""
    found = inside(NETNS / node.name, lambda: LOOKS[check](host(node)))
    assert found is not None, f"{check} does not concern {node.name}"
    return found


def wait_for(node: Node, check: str, result: str) -> Outcome:
    """As it is in the end: agents need their time."""
    found = look(node, check)

    def settled() -> bool:
        nonlocal found
        found = look(node, check)
        return found.result == result

    until(settled, f"{check} is {result}: {found}")
    return found


def on_wire(line: str) -> None:
    sh("switch", "sh", "-ec", line)


def wrong(node: Node) -> dict[str, str]:
    """All that is found; the clock of a test's machine may be its own."""
    done = node.percale("doctor", "--config", str(node.write_config()), "-o", "json")
    document = json.loads(done.stdout)
    assert documents("doctor", document)
    found = document["nodes"][node.name]["checks"]
    return {each["check"]: each["evidence"] for each in found if each["result"] not in ("ok", "unknown")}


@pytest.fixture
def pods(cluster: Cluster) -> tuple[Pod, Pod]:
    return cluster.two_pods()


@pytest.fixture
def node(pods: tuple[Pod, Pod]) -> Node:
    """One of two."""
    return pods[0].node


@pytest.mark.parametrize("wiring", ["routed", "bridge"])
@pytest.mark.parametrize(
    "backend",
    [
        "vxlan",
        "host-gw",
        "udp",
        "bgp",
        pytest.param("ipip", marks=pytest.mark.vm),
        pytest.param("wireguard", marks=pytest.mark.vm),
    ],
)
def test_a_healthy_node_is_not_alarmed(cluster: Cluster, backend: str, wiring: str) -> None:
    cluster.network["Backend"] = {"Type": backend}
    for number in (1, 2):
        node = cluster.node(number)
        node.settings["cni"]["wiring"] = wiring
        node.start()
        node.pod(f"p{number}")
    for node in cluster.nodes.values():
        until(lambda node=node: all(peer.reached for peer in node.status.peers))  # type: ignore[misc]
        until(lambda node=node: wrong(node) == {}, str(wrong(node)))  # type: ignore[misc]


def test_the_command_says_what_is_wrong_and_what_to_type(node: Node) -> None:
    config = str(node.write_config())
    assert node.percale("doctor", "--config", config).returncode == 0
    (node.directory / "net.d" / "10-percale.conflist").unlink()
    done = node.percale("doctor", "--config", config)
    assert done.returncode == 1, done.stdout
    assert "\nconflist: the container runtime attaches no pod\n  type: systemctl restart percale\n" in done.stdout
    node.stop()
    node.start()
    sh(node.name, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    node.ip("link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
    sh(node.name, "sh", "-ec", "ip addr add 10.9.9.9/24 dev eth1; ip link set eth1 up")
    done = node.percale("doctor", "--config", config)
    assert (done.returncode, "rp-filter" in done.stdout) == (3, True), done.stdout


def test_an_agent_that_is_dead_or_hangs(node: Node) -> None:
    assert look(node, "agent").result == "ok"
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    found = look(node, "agent")
    assert (found.result, "does not answer" in found.evidence) == ("error", True)
    assert found.type[0] == f"kill -KILL {node.process.pid}"
    node.sh(*found.type[0].split())
    node.process.wait()
    found = look(node, "agent")
    assert (found.result, found.evidence.startswith("no agent runs")) == ("error", True)
    assert found.type == ("systemctl restart percale",)
    node.start()
    assert look(node, "agent").result == "ok"


def test_what_the_agent_tells_itself(node: Node) -> None:
    bad = node.cluster.store / "bad.yaml"
    bad.write_text("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\nspec: 7\n")
    found = wait_for(node, "agent-problems", "error")
    assert "bad.yaml" in found.evidence
    bad.unlink()
    wait_for(node, "agent-problems", "ok")


def test_a_store_that_is_away(node: Node) -> None:
    away = node.cluster.directory / "away"
    node.cluster.store.rename(away)
    assert look(node, "store").result == "error"
    away.rename(node.cluster.store)
    assert look(node, "store").result == "ok"


@pytest.mark.parametrize(("check", "file"), [("conflist", "net.d/10-percale.conflist"), ("subnet-file", "subnet.env")])
def test_files_that_somebody_removes(node: Node, check: str, file: str) -> None:
    assert look(node, check).result == "ok"
    (node.directory / file).unlink()
    found = look(node, check)
    assert (found.result, found.type) == ("error", ("systemctl restart percale",))
    node.stop()
    node.start()
    assert look(node, check).result == "ok"


@pytest.mark.parametrize(
    ("check", "line", "words"),
    [
        ("tables", "nft flush ruleset", "there is no table inet percale, ip percale"),
        ("peer-entries", "ip route flush proto 112", "ip route"),
        ("peer-entries", "ip neigh flush dev flannel.1 nud permanent", "ip neighbour replace"),
        (
            "peer-entries",
            "bridge fdb show dev flannel.1 | grep dst | cut -d ' ' -f 1 | xargs -I M bridge fdb del M dev flannel.1",
            "bridge fdb",
        ),
    ],
)
def test_what_is_gone_while_no_agent_runs(node: Node, check: str, line: str, words: str) -> None:
    assert look(node, check).result == "ok"
    node.stop()
    sh(node.name, "sh", "-c", line)
    found = look(node, check)
    assert (found.result, words in found.evidence) == ("error", True), found
    node.start()
    wait_for(node, check, "ok")


def test_a_lease_with_another_node_s_address(node: Node) -> None:
    spec = {"node": "n9", "subnet": "10.244.77.0/24", "publicIP": "192.168.0.2", "backendType": "vxlan"}
    lease = {"apiVersion": "percale.io/v1alpha1", "kind": "SubnetLease", "metadata": {"name": "10.244.77.0-24"}}
    node.cluster.write("lease", {**lease, "spec": spec})
    found = look(node, "leases")
    assert (found.result, "have one public address, 192.168.0.2" in found.evidence) == ("error", True), found
    delete = next(each for each in found.type if each.startswith("percale delete"))
    assert node.percale(*delete.split()[1:]).returncode == 0
    assert look(node, "leases").result == "ok"


def test_a_tunnel_that_something_between_drops(node: Node) -> None:
    assert look(node, "peers").result == "ok"
    on_wire(f"{WIRE}; nft add rule bridge wire way udp dport 8472 drop")
    found = look(node, "peers")
    assert (found.result, found.evidence) == (
        "error",
        "n2 answers at 192.168.0.2, and not through flannel.1: UDP 8472 is lost",
    )
    on_wire("nft delete table bridge wire")
    assert look(node, "peers").result == "ok"


def without_offload(device: str) -> None:
    """Checksums are written and verified, as veth does not: it is the same machine (ETHTOOL_STXCSUM, ETHTOOL_SRXCSUM)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for command in (0x17, 0x15):
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            fcntl.ioctl(asked, 0x8946, struct.pack("16sP16x", device.encode(), ctypes.addressof(value)))


def test_a_tunnel_with_wrong_checksums(node: Node) -> None:
    """As an offload that does not work writes them: the node that they come to drops them."""
    for namespace, device in (("n2", "eth0"), ("switch", "n2-eth0"), (node.name, "eth0")):
        inside(NETNS / namespace, partial(without_offload, device))
    on_wire(f"{WIRE}; nft add rule bridge wire way ip saddr 192.168.0.2 udp dport 8472 udp checksum set 7")
    found = look(node, "peers")
    assert (found.result, "sends through flannel.1 has wrong checksums" in found.evidence) == ("error", True), found
    assert found.type == ("ethtool -K flannel.1 tx-checksum-ip-generic off   # on n2",)
    on_wire("nft delete table bridge wire")
    assert look(node, "peers").result == "ok"


def test_a_route_that_leads_elsewhere(node: Node) -> None:
    assert look(node, "peer-routes").evidence == "packets to 1 peer leave by it"
    node.ip("link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
    sh(node.name, "sh", "-ec", "ip addr add 10.9.9.9/24 dev eth1; ip link set eth2 up; ip link set eth1 up")
    node.ip("route", "add", "192.168.0.2/32", "dev", "eth1")
    found = look(node, "peer-routes")
    assert (found.result, found.evidence) == (
        "warning",
        "packets to n2 leave by eth1, and eth0 is the interface between nodes",
    )
    setting, value = found.type[0].partition("#")[0].split(": ")
    node.settings[setting] = value.strip()
    assert look(node, "peer-routes").result == "ok"


def test_an_address_whose_pod_is_gone(pods: tuple[Pod, Pod]) -> None:
    """Its namespace went without a DEL; of the pod that is still in the cluster another check tells."""
    node, pod = pods[0].node, pods[0]
    spec = {"nodeName": node.name, "containers": [{"name": "c", "image": "x"}]}
    stored = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "default"}, "spec": spec}
    node.cluster.write("pod", stored)
    assert look(node, "leaked-addresses").result == "ok"
    node.cluster.namespaces.remove("a")
    delete_namespace(NETNS / "a")
    found = wait_for(node, "pod-devices", "error")
    assert (found.evidence, look(node, "leaked-addresses").result) == ("no device leads to default/a", "ok")
    (node.cluster.store / "pod.yaml").unlink()
    found = look(node, "leaked-addresses")
    assert (found.result, found.evidence) == ("warning", f"{pod.addresses[0]} of default/a: the pod is gone")
    assert look(node, "pod-devices").result == "ok"
    for command in found.type:
        node.sh("sh", "-ec", command)
    assert look(node, "leaked-addresses").result == "ok"
    assert node.status.addresses[0].used == 0


def test_a_peer_that_is_down(node: Node) -> None:
    on_wire("ip link set n2-eth0 down")
    assert look(node, "peers").evidence == "n2 does not answer at 192.168.0.2"
    on_wire("ip link set n2-eth0 up")
    wait_for(node, "peers", "ok")


def test_a_way_that_is_narrower_than_the_interface(node: Node) -> None:
    assert look(node, "large-packets").evidence == "packets of 1450 bytes pass"
    on_wire(f"{WIRE}; nft add rule bridge wire way ip length gt 1400 drop")
    found = look(node, "large-packets")
    assert (found.result, found.evidence) == (
        "error",
        "packets of 1450 bytes are lost on the way to n2, those of 1350 pass",
    )
    assert look(node, "peers").result == "ok", "small ones pass"
    for each in node.cluster.nodes.values():
        sh(each.name, "sh", "-ec", found.type[0])
    until(lambda: look(node, "large-packets").evidence == "packets of 1350 bytes pass", "the agent has the new MTU")
    found = look(node, "pod-devices")
    assert (found.result, found.evidence) == ("warning", "the MTU of default/a is not the node's, 1350")
    assert found.type[0].startswith("kubectl delete pod a -n default ")


def test_pods_whose_device_is_gone(pods: tuple[Pod, Pod]) -> None:
    node = pods[0].node
    assert look(node, "pod-devices").result == "ok"
    sh("a", "ip", "link", "delete", "eth0")
    until(lambda: look(node, "pod-devices").result == "ok", "the agent makes it again")


def test_a_host_s_route_within_the_pod_network(node: Node) -> None:
    assert look(node, "address-ranges").result == "ok"
    node.ip("route", "add", "10.244.200.0/24", "dev", "eth0")
    found = look(node, "address-ranges")
    assert (found.result, found.evidence) == (
        "error",
        "10.244.200.0/24 of eth0 is within the pod network 10.244.0.0/16",
    )
    node.sh("sh", "-ec", found.type[0])
    assert look(node, "address-ranges").result == "ok"


def service(name: str, namespace: str, **selector: str) -> dict[str, Any]:
    spec = {"selector": selector, "clusterIP": "10.96.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def endpoints(name: str, namespace: str, *, ready: bool) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": 53, "protocol": "UDP"}],
        "endpoints": [{"addresses": ["10.244.1.9"], "conditions": {"ready": ready}}],
    }


def test_services_without_endpoints(node: Node) -> None:
    assert look(node, "endpoints").result == "ok"
    shop = service("shop", "default", app="shop")
    node.cluster.write("shop", shop)
    found = look(node, "endpoints")
    assert (found.result, found.evidence) == ("warning", "default/shop selects no pod")
    assert found.type[0].startswith("kubectl get pods -n default --show-labels ")
    node.cluster.write("shop", shop, endpoints("shop", "default", ready=False))
    assert look(node, "endpoints").evidence == "default/shop has no endpoint that is ready"
    node.cluster.write("shop", shop, endpoints("shop", "default", ready=True))
    assert look(node, "endpoints").result == "ok"
    node.cluster.write("dns", service("kube-dns", "kube-system", app="dns"))
    found = look(node, "endpoints")
    assert (found.result, found.evidence) == ("error", "pods resolve no name: kube-system/kube-dns selects no pod")


def test_the_page_has_every_check() -> None:
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text()
    assert [check.name for check in RUNNING if f"`{check.name}`" not in page] == []
