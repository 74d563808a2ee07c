"""The store and the other nodes in it: peers come, go and change, files turn bad, the store is away, names and subnets clash."""

from __future__ import annotations

import json
from pathlib import Path

from tests.kernel.agent.cluster import Cluster, Node
from tests.waiting import PATIENCE, until


def lease_files(cluster: Cluster, node: str) -> list[Path]:
    """Where this node's lease is written."""
    files = [path for path in cluster.store.rglob("*.json") if not path.name.startswith(".")]
    return [path for path in files if json.loads(path.read_text())["spec"].get("node") == node]


def lease(number: int, *, public_ip: str | None = None, **spec: object) -> dict[str, object]:
    subnet = str(spec.pop("subnet", f"10.244.{number}.0/24"))
    return {
        "apiVersion": "percale.io/v1alpha1",
        "kind": "SubnetLease",
        "metadata": {"name": subnet.replace("/", "-")},
        "spec": {
            "node": f"hand{number}",
            "subnet": subnet,
            "publicIP": public_ip or f"192.168.0.{number}",
            "backendType": "vxlan",
            "backendData": {"VNI": 1, "VtepMAC": f"02:00:00:00:00:{number:02x}"},
            **spec,
        },
    }


def routes(node: Node) -> list[str]:
    return [line.split()[0] for line in node.ip("route").splitlines() if line.startswith("10.244.")]


def fdb(node: Node) -> str:
    return node.sh("bridge", "fdb", "show", "dev", "flannel.1")


def test_peers_come_change_and_go(cluster: Cluster) -> None:
    one = cluster.node(1).start()
    path = cluster.write("peers", lease(50), lease(51))
    until(lambda: routes(one) == ["10.244.50.0/24", "10.244.51.0/24"])
    changed = lease(50, public_ip="192.168.0.99", backendData={"VNI": 1, "VtepMAC": "02:00:00:00:00:aa"})
    cluster.write("peers", changed, lease(51))
    until(lambda: "02:00:00:00:00:aa dst 192.168.0.99" in fdb(one))
    until(lambda: "02:00:00:00:00:32" not in fdb(one), "the old MAC's entry is gone")
    assert "lladdr 02:00:00:00:00:aa" in one.ip("neighbour", "show", "10.244.50.0", "dev", "flannel.1")
    cluster.write("peers", lease(51))
    until(lambda: routes(one) == ["10.244.51.0/24"])
    path.unlink()
    until(lambda: routes(one) == [])
    assert not one.status.peers


def test_one_lease_that_changes_writes_only_its_own_objects(cluster: Cluster) -> None:
    cluster.write("peers", *(lease(number) for number in range(50, 90)))
    one = cluster.node(1).start("-v")
    until(lambda: len(routes(one)) == 40)
    before = len(one.log.splitlines())
    cluster.write("more", lease(90))
    until(lambda: len(routes(one)) == 41)
    commands = [line for line in one.log.splitlines()[before:] if line.startswith("+ ")]
    assert commands
    its_own = ("10.244.90.0", "02:00:00:00:00:5a", "192.168.0.90")
    assert all(any(each in line for each in its_own) for line in commands), commands


def test_an_invalid_file_keeps_its_peers_and_is_named(cluster: Cluster) -> None:
    path = cluster.write("peers", lease(50))
    one = cluster.node(1).start()
    until(lambda: routes(one) == ["10.244.50.0/24"])
    path.write_text("kind: SubnetLease\nspec: [")
    until(lambda: one.status.problems)
    assert "peers.yaml" in one.status.problems[0].error
    assert routes(one) == ["10.244.50.0/24"]
    assert one.status.ready
    cluster.write("peers", lease(50), lease(51))
    until(lambda: len(routes(one)) == 2)
    until(lambda: not one.status.problems)
    assert one.status.lastError is not None


def test_a_restart_with_an_invalid_file_collects_nothing(cluster: Cluster) -> None:
    path = cluster.write("peers", lease(50))
    one = cluster.node(1).start()
    until(lambda: routes(one) == ["10.244.50.0/24"])
    one.stop()
    path.write_text("kind: SubnetLease\nspec: [")
    one.launch()
    until(lambda: (status := one.ask()) is not None and status.problems)
    assert routes(one) == ["10.244.50.0/24"], "nobody knows whether that peer left"
    assert not one.status.ready, "nor whether it held a policy"
    path.unlink()
    one.wait_ready()
    until(lambda: routes(one) == [])


def test_a_store_that_is_away_takes_nothing_with_it(cluster: Cluster) -> None:
    cluster.write("peers", lease(50))
    one = cluster.node(1).start()
    until(lambda: routes(one) == ["10.244.50.0/24"])
    away = cluster.store.with_name("away")
    cluster.store.rename(away)
    until(lambda: one.status.problems)
    assert (routes(one), one.status.ready) == (["10.244.50.0/24"], True)
    one.stop()
    one.launch()
    until(lambda: (status := one.ask()) is not None and status.waitingFor)
    assert routes(one) == ["10.244.50.0/24"], "never because the store is away"
    away.rename(cluster.store)
    one.wait_ready()
    until(lambda: not one.status.problems)
    assert one.subnet == "10.244.1.0/24"


def test_a_deleted_lease_is_written_again(cluster: Cluster) -> None:
    one, two = cluster.node(1).start(), cluster.node(2).start()
    until(lambda: len(two.status.peers) == 1)
    lease_files(cluster, "n1")[0].unlink()
    until(lambda: lease_files(cluster, "n1"))
    until(lambda: [peer.node for peer in two.status.peers] == ["n1"])
    assert one.subnet == "10.244.1.0/24"


def test_leases_that_cannot_be_used_are_left_out_with_their_reason(cluster: Cluster) -> None:
    one = cluster.node(1).start()
    cluster.write(
        "peers",
        lease(50),
        lease(51, public_ip="192.168.0.1"),
        lease(52, backendType="host-gw", backendData=None),
        lease(53, subnet="10.244.1.0/25"),
        lease(54, backendData={"VNI": 1}),
        lease(55, backendData={"VNI": 1, "VtepMAC": "nonsense"}),
    )
    until(lambda: len(one.status.peers) == 6)
    until(lambda: "10.244.50.0/24" in routes(one))
    problems = {peer.node: peer.problem for peer in one.status.peers}
    assert problems.pop("hand50") is None
    assert all(problems.values()), problems
    assert routes(one) == ["10.244.50.0/24"]
    assert one.status.ready


def test_the_podcidr_of_the_node_object_is_taken(cluster: Cluster) -> None:
    spec = {"podCIDR": "10.244.77.0/24", "podCIDRs": ["10.244.77.0/24"]}
    cluster.write("nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": spec})
    assert cluster.node(1).start().subnet == "10.244.77.0/24"


def refusal(node: Node) -> str:
    """Why the agent does not start."""
    node.launch()
    assert node.process is not None
    assert node.process.wait(timeout=PATIENCE) == 2
    assert "Traceback" not in node.log
    return node.log.splitlines()[-1]


def test_overlapping_podcidrs_are_refused(cluster: Cluster) -> None:
    for number, cidr in ((1, "10.244.64.0/20"), (2, "10.244.65.0/24")):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"n{number}"}, "spec": {"podCIDR": cidr}}
        cluster.write(f"node{number}", node)
    one = cluster.node(1).start()
    assert "10.244.65.0/24 overlaps 10.244.64.0/20 of node n1" in refusal(cluster.node(2))
    assert not one.status.peers


def test_two_nodes_with_one_public_address_are_refused(cluster: Cluster) -> None:
    cluster.node(1).start()
    line = refusal(cluster.node(2, publicIP="192.168.0.1"))
    assert line.startswith("percale: node n2: ")
    assert "192.168.0.1" in line and "--public-ip" in line


def test_two_machines_with_one_name_are_refused(cluster: Cluster) -> None:
    cluster.node(1).start()
    line = refusal(cluster.node(2, node="n1"))
    assert "another machine" in line and "another name" in line


def test_a_network_without_room_is_refused(cluster: Cluster) -> None:
    cluster.network |= {"Network": "10.244.0.0/22", "SubnetLen": 24}
    for number in (1, 2, 3):
        cluster.node(number).start()
    assert "no free subnet in 10.244.0.0/22" in refusal(cluster.node(4))


def test_the_network_comes_from_the_configmap_once_it_is_there(cluster: Cluster) -> None:
    one = cluster.node(1, network=None).launch()
    until(lambda: (status := one.ask()) is not None and "no ConfigMap" in "".join(status.waitingFor))
    data = {"net-conf.json": json.dumps({"Network": "10.55.0.0/16"}), "cni-conf.json": "{}"}
    metadata = {"name": "kube-flannel-cfg", "namespace": "kube-flannel"}
    cluster.write("flannel", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    one.wait_ready()
    assert one.status.networks == ("10.55.0.0/16",)


def test_a_bad_net_conf_names_the_key(cluster: Cluster) -> None:
    cluster.network["Subnetlength"] = 24
    assert 'unknown key "Subnetlength"; did you mean "SubnetLen"?' in refusal(cluster.node(1))


def test_a_backend_that_cannot_work_here_claims_nothing(cluster: Cluster) -> None:
    cluster.network["Backend"] = {"Type": "host-gw"}
    line = refusal(cluster.node(1, publicIP="203.0.113.1"))
    assert "public address 203.0.113.1 is not an address of eth0" in line
    assert not list(cluster.store.rglob("*.json"))
