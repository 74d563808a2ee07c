"""Nodes whose store is an etcd, as flannel's nodes have one: real agents, a real etcd, real packets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests import builders
from tests.etcd_server import EtcdServer
from tests.kernel.agent.cluster import Cluster, Node, etcd_of, sh
from tests.waiting import PATIENCE, until

from percale.model.manifest.encode import to_json
from percale.model.meta import Object

PREFIX = "/coreos.com/network"
NETWORK = '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'
FLANNELS = {"PublicIP": "192.168.0.7", "PublicIPv6": None, "BackendType": "vxlan"}
VTEP: dict[str, int | str] = {"VNI": 1, "VtepMAC": "12:c6:65:89:b4:e3"}


@pytest.fixture
def etcd(cluster: Cluster) -> Iterator[EtcdServer]:
    """At the switch, which all nodes reach."""
    sh("switch", "ip", "link", "set", "lo", "up")
    with etcd_of(cluster) as server:
        yield server


def node_of(cluster: Cluster, etcd: EtcdServer, number: int, **settings: Any) -> Node:
    return cluster.node(number, store=f"etcd:{etcd.url}?prefix={PREFIX}", network=None, **settings)


def problems(node: Node) -> list[str]:
    status = node.ask()
    return [problem.error for problem in status.problems] if status is not None else []


def keys(etcd: EtcdServer, below: str) -> dict[str, str]:
    lines = etcd.ctl("get", "--prefix", f"{PREFIX}/{below}").splitlines()
    return {key.removeprefix(f"{PREFIX}/{below}"): value for key, value in zip(lines[::2], lines[1::2], strict=True)}


def test_nodes_beside_flannels_reach_each_other_and_obey_policies(cluster: Cluster, etcd: EtcdServer) -> None:
    one, two = node_of(cluster, etcd, 1), node_of(cluster, etcd, 2)
    one.launch()
    until(lambda: any("net-conf.json" in each for each in problems(one)), "no network yet")
    etcd.ctl("put", f"{PREFIX}/config", NETWORK)
    flannels = json.dumps({**FLANNELS, "BackendData": VTEP}, separators=(",", ":"))
    etcd.ctl("put", f"{PREFIX}/subnets/10.5.7.0-24", flannels)
    one.wait_ready()
    two.start()
    a, b = one.pod("a"), two.pod("b")
    until(lambda: a.reaches(b.addresses[0]))
    values = keys(etcd, "subnets/")
    own = json.loads(values[one.subnet.replace("/", "-")])
    assert list(own) == ["PublicIP", "PublicIPv6", "BackendType", "BackendData"]
    assert (own["PublicIP"], own["PublicIPv6"], own["BackendType"]) == ("192.168.0.1", None, "vxlan")
    assert list(own["BackendData"]) == ["VNI", "VtepMAC"]
    assert values["10.5.7.0-24"] == flannels, "another's lease stays as it is"
    assert "10.5.7.0/24 via 10.5.7.0 dev flannel.1" in one.ip("route")
    assert str(VTEP["VtepMAC"]) in one.sh("bridge", "fdb")

    policy = builders.policy("closed", namespace="default", policyTypes=("Ingress",))
    pod = builders.pod("b", b.addresses[0], node="n2")
    for obj in (pod, policy):
        etcd.ctl("put", f"{PREFIX}/percale/objects/{obj.KIND}/default/{obj.metadata.name}", to_json(obj).decode())
    until(lambda: not a.reaches(b.addresses[0]), "the policy holds")
    etcd.ctl("del", f"{PREFIX}/percale/objects/NetworkPolicy/default/closed")
    until(lambda: a.reaches(b.addresses[0]))
    etcd.ctl("del", f"{PREFIX}/subnets/10.5.7.0-24")
    until(lambda: "10.5.7.0/24" not in one.ip("route"))


def test_an_etcd_that_is_away_takes_nothing_with_it(cluster: Cluster, etcd: EtcdServer) -> None:
    etcd.ctl("put", f"{PREFIX}/config", NETWORK)
    one, two = node_of(cluster, etcd, 1).start(), node_of(cluster, etcd, 2).start()
    a, b = one.pod("a"), two.pod("b")
    until(lambda: a.reaches(b.addresses[0]))
    subnet = one.subnet
    with a.pinging(b.addresses[0]) as counts:
        etcd.stop()
        until(lambda: any("etcd does not answer" in each for each in problems(one)))
        assert one.status.ready
        etcd.start()
        until(lambda: not problems(one))
    assert counts.lost <= 1
    assert one.subnet == subnet


def test_bug_a_key_that_cannot_be_read_takes_no_peer(cluster: Cluster, etcd: EtcdServer) -> None:
    """flannel takes it for an empty snapshot, and removes all peers."""
    etcd.ctl("put", f"{PREFIX}/config", NETWORK)
    flannels = json.dumps({**FLANNELS, "BackendData": VTEP}, separators=(",", ":"))
    etcd.ctl("put", f"{PREFIX}/subnets/10.5.7.0-24", flannels)
    one = node_of(cluster, etcd, 1).start()
    until(lambda: one.ip("route", "show", "10.5.7.0/24"))
    for key, value in (("10.5.300.0-24", flannels), ("10.5.8.0-24", "{"), ("something", "")):
        etcd.ctl("put", f"{PREFIX}/subnets/{key}", value)
    until(lambda: sum(f"{PREFIX}/subnets/" in each for each in problems(one)) == 1 or len(problems(one)) >= 3)
    assert one.ip("route", "show", "10.5.7.0/24")
    one.stop()
    one.start()
    until(lambda: [peer.node for peer in one.status.peers] == ["192.168.0.7"])
    assert one.ip("route", "show", "10.5.7.0/24")


def test_an_agent_that_starts_while_etcd_is_away_comes_up_from_its_last_state(
    cluster: Cluster, etcd: EtcdServer
) -> None:
    etcd.ctl("put", f"{PREFIX}/config", NETWORK)
    one, two = node_of(cluster, etcd, 1, shortcut="off").start(), node_of(cluster, etcd, 2).start()
    a, b, closed = one.pod("a"), two.pod("b"), one.pod("closed")
    selector = {"matchLabels": {"app": "closed"}}
    write(etcd, builders.policy("closed", namespace="default", podSelector=selector, policyTypes=("Ingress",)))
    write(etcd, builders.pod("closed", closed.addresses[0], node="n1", labels={"app": "closed"}))
    write(etcd, builders.pod("a", a.addresses[0], node="n1", labels={"app": "a"}))
    until(lambda: a.reaches(b.addresses[0]) and not b.reaches(closed.addresses[0]))
    before = data_path(one)
    with a.pinging(b.addresses[0]) as counts:
        one.stop()
        etcd.stop()
        one.start()
        assert any("what it said to the agent before is in force" in each for each in problems(one))
        assert "subnet kept, not confirmed by the store yet" in one.log
        assert data_path(one) == before
        assert not b.reaches(closed.addresses[0])
        new = one.pod("new", **{"io.kubernetes.cri.pod-annotations": {}})
        assert any("the labels of default/new are not known" in each for each in problems(one))
        assert not b.reaches(new.addresses[0]) and not new.reaches(b.addresses[0])
        one.sh("ping", "-c1", "-W1", new.addresses[0])  # the kubelet's probes
        etcd.start()
        write(etcd, builders.pod("new", new.addresses[0], node="n1", labels={"app": "a"}))
        until(lambda: not problems(one))
        until(lambda: b.reaches(new.addresses[0]) and new.reaches(b.addresses[0]))
        after = data_path(one)
        for what in ("route", "neigh", "fdb"):
            assert set(before[what].splitlines()) <= set(after[what].splitlines())
        etcd.ctl("del", f"{PREFIX}/percale/objects/NetworkPolicy/default/closed")
        until(lambda: b.reaches(closed.addresses[0]))
    assert counts.lost <= 1


def write(etcd: EtcdServer, obj: Object) -> None:
    etcd.ctl("put", f"{PREFIX}/percale/objects/{obj.KIND}/default/{obj.metadata.name}", to_json(obj).decode())


def data_path(node: Node) -> dict[str, str]:
    """What the kernel of a node has, without counters and handles."""
    return {
        "route": node.ip("route"),
        "neigh": "\n".join(sorted(line for line in node.ip("neigh").splitlines() if "PERMANENT" in line)),
        "fdb": "\n".join(sorted(node.sh("bridge", "fdb").splitlines())),
        "rules": node.sh("nft", "--stateless", "list", "table", "inet", "percale"),
    }


def test_an_etcd_that_lost_everything_gets_the_leases_again_and_no_peer_goes(
    cluster: Cluster, etcd: EtcdServer
) -> None:
    etcd.ctl("put", f"{PREFIX}/config", NETWORK)
    nodes = [node_of(cluster, etcd, number).start() for number in (1, 2, 3)]
    a, b = nodes[0].pod("a"), nodes[1].pod("b")
    until(lambda: a.reaches(b.addresses[0]))
    leases = keys(etcd, "subnets/")
    with a.pinging(b.addresses[0]) as counts:
        etcd.stop()
        etcd.forget()
        etcd.start()
        etcd.ctl("put", f"{PREFIX}/config", NETWORK)
        until(lambda: keys(etcd, "subnets/") == leases, "the leases are there again")
    assert counts.lost <= 1
    assert all("peer left" not in node.log for node in nodes)
    assert "the others stay until it does so again" in "".join(node.log for node in nodes)


def test_a_second_machine_with_a_nodes_name_is_refused_and_changes_nothing(cluster: Cluster, etcd: EtcdServer) -> None:
    etcd.ctl("put", f"{PREFIX}/config", NETWORK)
    one = node_of(cluster, etcd, 1).start()
    before = keys(etcd, "")
    second = node_of(cluster, etcd, 2, node="n1").launch()
    assert second.process is not None
    assert second.process.wait(timeout=PATIENCE) == 2
    (line,) = [line for line in second.log.splitlines() if line.startswith("percale: ")]
    assert line.startswith("percale: node n1: another machine (192.168.0.1) has this name and holds 10.5.")
    assert "give this node another name, or delete SubnetLease" in line
    assert keys(etcd, "") == before
    assert one.status.ready and not one.status.problems
