"""A cluster changes from one backend to another, agent by agent, and no packet is lost."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from tests.kernel.agent.cluster import DUAL, Cluster, Node
from tests.waiting import until

VXLAN, HOST_GW = {"Type": "vxlan", "VNI": 7}, {"Type": "host-gw"}
DEVICES = {"vxlan": "flannel.7", "host-gw": "eth0"}


def change(node: Node, *, backend: dict[str, Any], previous: dict[str, Any] | None = None) -> None:
    node.stop()
    given = {"Backend": backend} | ({"PreviousBackend": previous} if previous is not None else {})
    node.settings["network"] = DUAL | given
    node.start()


def device(node: Node, to: Node) -> str:
    """By which this node sends to the other one's pods."""
    return node.ip("route", "show", str(to.status.subnets[0])).split(" dev ")[1].split()[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [pytest.param(VXLAN, HOST_GW, id="vxlan to host-gw"), pytest.param(HOST_GW, VXLAN, id="host-gw to vxlan")],
)
def test_no_packet_is_lost(cluster: Cluster, before: dict[str, Any], after: dict[str, Any]) -> None:
    cluster.network = DUAL | {"Backend": before}
    nodes = [cluster.node(number, ipv6=True) for number in (1, 2, 3)]
    for node in nodes:
        node.start()
    one, two, three = nodes
    pods = [node.pod(f"p{number}") for number, node in enumerate(nodes)]
    pairs = [(pods[0], pods[1]), (pods[1], pods[2]), (pods[2], pods[0])]
    for a, b in pairs:
        until(lambda a=a, b=b: all(a.reaches(each) for each in b.addresses))  # type: ignore[misc]
    with ExitStack() as stack:
        pings = [stack.enter_context(a.pinging(each)) for a, b in pairs for each in b.addresses]
        for node in (one, two):
            change(node, backend=after, previous=before)
        until(lambda: one.status.otherBackend is not None and one.status.otherBackend.waitingFor == ("n3",))
        assert (one.status.backend, device(one, two)) == (before["Type"], DEVICES[before["Type"]])
        change(three, backend=after, previous=before)
        for node in nodes:
            until(lambda node=node: node.status.backend == after["Type"])  # type: ignore[misc]
        until(lambda: all(device(a, b) == DEVICES[after["Type"]] for a in nodes for b in nodes if a is not b))
        assert [(peer.path, peer.problem) for peer in one.status.peers] == [(one.status.peers[0].path, None)] * 2
        change(one, backend=after, previous=before)
        assert one.status.backend == after["Type"], "it stays so"
        for node in nodes:
            change(node, backend=after)
    assert [ping.lost for ping in pings] == [0] * len(pings)
    assert all("flannel.7" in node.ip("link") for node in nodes) == (after is VXLAN)
    assert "percale.io/other-backend" not in "".join(path.read_text() for path in cluster.store.rglob("*.json"))
    assert [node.status.problems for node in nodes] == [()] * 3
