"""Backends that leave the way between nodes to others: alloc, and extension's commands."""

from __future__ import annotations

import signal

from tests.kernel.agent.cluster import Cluster
from tests.waiting import until

ROUTES = {
    "Type": "extension",
    "PreStartupCommand": "uname -s",
    "SubnetAddCommand": "ip route replace $SUBNET via $PUBLIC_IP",
    "SubnetRemoveCommand": "ip route delete $SUBNET via $PUBLIC_IP",
}


def test_alloc_gives_subnets_and_the_routes_are_somebody_elses(cluster: Cluster) -> None:
    cluster.network = {"Network": "10.244.0.0/16", "Backend": {"Type": "alloc"}}
    nodes = [cluster.node(number).start() for number in (1, 2)]
    for one, two in (nodes, nodes[::-1]):
        one.ip("route", "add", str(two.status.subnets[0]), "via", str(two.status.publicIPs[0]))
    a, b = (node.pod(f"p{number}") for number, node in enumerate(nodes))
    assert a.reaches(b.addresses[0])
    assert [(peer.reached, peer.problem) for peer in nodes[0].status.peers] == [(True, None)]
    assert nodes[0].status.mtu == 1500
    config = str(nodes[0].write_config())
    assert "by others" in nodes[0].percale("status", "--config", config).stdout
    checks = nodes[0].percale("doctor", "--all", "--config", config).stdout.splitlines()
    assert ["address-ranges", "ok"] in (line.split()[:2] for line in checks), "their routes are no foreign network's"


def test_commands_carry_packets_while_agents_restart_until_another_backend_does(cluster: Cluster) -> None:
    cluster.network = {"Network": "10.244.0.0/16", "Backend": ROUTES}
    a, b = cluster.two_pods()
    one, two = a.node, b.node
    (lease,) = (each for each in cluster.store.rglob("*.json") if '"node":"n1"' in each.read_text().replace(" ", ""))
    assert '"backendData":"Linux"' in lease.read_text().replace(" ", "")
    with a.pinging(b.addresses[0]) as pings:
        one.stop(signal.SIGKILL)
        one.start()
    sent, answered = pings()
    assert sent == answered > 0
    cluster.network["Backend"] = {"Type": "host-gw"}
    theirs = str(two.status.subnets[0])
    one.stop()
    one.start()
    assert "proto" not in one.ip("route", "show", theirs), (
        "two has its old type: no route of ours, and the command's is undone"
    )
    two.stop()
    two.start()
    until(lambda: a.reaches(b.addresses[0]), "host-gw's routes")


def test_a_command_that_fails_is_a_problem_until_it_does_not(cluster: Cluster) -> None:
    ready = cluster.directory / "ready"
    cluster.network = {"Network": "10.244.0.0/16", "Backend": {**ROUTES, "SubnetAddCommand": f"ls {ready}"}}
    one, _ = cluster.node(1).start(), cluster.node(2).start()
    (problem,) = until(lambda: one.status.problems)
    assert f"extension: ls {ready}: ls: cannot access" in problem.error
    ready.touch()
    until(lambda: not one.status.problems)
