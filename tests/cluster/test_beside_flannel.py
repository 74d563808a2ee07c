"""Percale and flanneld in one network: pods of both reach each other, and each reads the other's lease."""

from __future__ import annotations

import json
import signal

import pytest
from tests.cluster.flannel import EtcdWorld, Flannel, World
from tests.kernel.agent.cluster import Node, Pod
from tests.waiting import until

BACKENDS = ("vxlan", "host-gw")
WORLDS = [
    f"{store}-{families}-{backend}"
    for store in ("etcd", "kubernetes")
    for families in ("ipv4", "dual")
    for backend in BACKENDS
]


def routed(node: Node, network: str) -> bool:
    family = ("-6",) if ":" in network else ()
    return " via " in node.ip(*family, "route", "show", network)


def wait_reached(*pairs: tuple[Pod, Pod]) -> None:
    for one, other in pairs:
        for address in other.addresses:
            until(lambda one=one, address=address: one.reaches(address), f"{one.name} reaches {address}")  # type: ignore[misc]


def check_leases(world: World, one: Node, two: Flannel) -> None:
    """Each has what the other needs, in the same form."""
    leases = world.leases()
    mine, theirs = leases["192.168.0.1"], leases["192.168.0.2"]
    assert list(mine) == list(theirs)
    assert mine["BackendType"] == theirs["BackendType"] == world.network["Backend"]["Type"]
    for data in ("BackendData", "BackendV6Data"):
        assert list(mine.get(data, ())) == list(theirs.get(data, ()))
    (peer,) = until(lambda: [each for each in one.status.peers if each.reached])
    assert peer.subnets[0] == two.subnet
    assert one.status.problems == ()


@pytest.mark.parametrize("world", WORLDS, indirect=True)
def test_pods_of_both_reach_each_other_while_either_restarts_and_until_one_leaves(world: World) -> None:
    two = world.flannel(2)
    two.install()
    two.start()
    one = world.percale(1).start()
    a, b = one.pod("a"), two.pod("b")
    assert len(a.addresses) == len(b.addresses) == 1 + world.dual
    wait_reached((a, b), (b, a))
    check_leases(world, one, two)

    with a.pinging(b.addresses[0]) as there, b.pinging(a.addresses[-1]) as back:
        one.stop()
        one.start()
        two.stop()
        two.start()
        wait_reached((a, b), (b, a))
    for sent, answered in (there(), back()):
        assert sent - answered <= 1, (sent, answered)
    check_leases(world, one, two)

    subnets = [str(each) for each in one.status.subnets]
    assert all(routed(two.node, each) for each in subnets)
    theirs = [each for peer in one.status.peers for each in peer.subnets]
    assert all(routed(one, each) for each in theirs)
    two.stop()
    world.forget(two.node)
    until(lambda: not any(routed(one, each) for each in theirs), "the peer is withdrawn")
    assert one.status.peers == ()


@pytest.mark.parametrize("world", WORLDS, indirect=True)
def test_flannel_withdraws_a_node_of_ours_that_leaves(world: World) -> None:
    two = world.flannel(2).start()
    one = world.percale(1).start()
    subnets = [str(each) for each in one.status.subnets]
    until(lambda: all(routed(two.node, each) for each in subnets), "flannel has the peer")
    one.stop()
    if isinstance(world, EtcdWorld):
        assert "gave back" in one.percale("agent", "--cleanup", "--config", str(one.write_config())).stdout
    else:
        world.forget(one)  # flannel's peers leave with their Node; it does not see that annotations are gone
    until(lambda: not any(routed(two.node, each) for each in subnets), "flannel has withdrawn it")


@pytest.mark.parametrize("world", ["etcd-ipv4-udp", "kubernetes-ipv4-udp"], indirect=True)
def test_datagrams_of_both_hold_the_same_and_ours_pass_while_the_agent_is_dead(world: World) -> None:
    """flannel's leases of udp name no type, and it has one route for all peers."""
    two = world.flannel(2)
    two.install()
    two.start()
    one = world.percale(1).start()
    try:
        a, b = one.pod("a"), two.pod("b")
        wait_reached((a, b), (b, a))
        leases = world.leases()
        assert [leases[f"192.168.0.{number}"].get("BackendType", "") for number in (1, 2)] == ["udp", ""]
        with a.pinging(b.addresses[0]) as there:
            one.stop(signal.SIGKILL)
            one.start()
        sent, answered = there()
        assert sent == answered > 0
        two.stop()
        world.forget(two.node)
        until(lambda: two.subnet not in one.ip("route"), "the peer is withdrawn")
    finally:
        one.stop()
        done = one.percale("agent", "--cleanup", "--config", str(one.write_config()))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("world", ["etcd-ipv4-extension"], indirect=True)
def test_the_extension_backends_commands_do_the_same_for_both(world: World) -> None:
    """Ours has them from a file of its node: what is in a store is not run as root."""
    assert isinstance(world, EtcdWorld)
    options = {
        "PreStartupCommand": "uname -s",
        "SubnetAddCommand": "ip route replace $SUBNET via $PUBLIC_IP",
        "SubnetRemoveCommand": "ip route delete $SUBNET via $PUBLIC_IP",
    }
    network = {**world.network, "Backend": {"Type": "extension", **options}}
    world.etcd.ctl("put", f"{world.PREFIX}/config", json.dumps(network))
    two = world.flannel(2)
    two.install()
    two.start()
    one = world.percale(1)
    one.settings["network"] = network
    one.start()
    wait_reached((one.pod("a"), two.pod("b")))
    leases = world.leases().values()
    assert [(each["BackendType"], each["BackendData"]) for each in leases] == [("extension", "Linux")] * 2
    two.stop()
    world.forget(two.node)
    until(lambda: not routed(one, str(two.subnet)), "the command has withdrawn it")


@pytest.mark.parametrize("world", ["etcd-ipv4-host-gw"], indirect=True)
def test_reservations_without_a_backend_are_peers_of_both_and_ours_stays_one(world: World) -> None:
    """A lease whose backendType is empty is of the reader's own type."""
    assert isinstance(world, EtcdWorld)
    one, three = world.percale(1), world.percale(3)
    for number in (2, 3):
        subnet, address = f"10.244.{70 + number}.0/24", f"192.168.0.{number}"
        done = one.percale("etcd", "reserve", "--store", one.settings["store"], "--public-ip", address, subnet)
        assert done.returncode == 0, done.stderr
    one.start()
    until(lambda: routed(one, "10.244.72.0/24") and routed(one, "10.244.73.0/24"), "both are peers")
    two = world.flannel(2)
    two.install()
    two.start()
    assert two.subnet == "10.244.72.0/24"
    assert three.start().subnet == "10.244.73.0/24"
    a, b, c = one.pod("a"), two.pod("b"), three.pod("c")
    wait_reached((a, b), (b, a), (b, c), (c, b))
    assert {each["BackendType"] for each in world.leases().values()} == {"host-gw"}
    fields = world.etcd.ctl("get", "-w", "fields", f"{world.PREFIX}/subnets/10.244.73.0-24")
    assert '"Lease" : 0' in fields, "used, and a reservation as before"
