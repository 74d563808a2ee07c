"""Two backends at once, as values, and when an agent has its node be sent to by the new one."""

from __future__ import annotations

import io
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.backend.conftest import altered

from percale.agent.logging import LineLog
from percale.agent.network.backend_transition import BackendTransition, resume
from percale.agent.state import NodeState
from percale.agent.status import OtherBackend
from percale.backend.protocol import LocalNode, lease_spec
from percale.backend.registry import make_backend
from percale.backend.state_dir import load_state
from percale.backend.transition import Transition
from percale.model.ip_family import Family
from percale.model.netconf import network_config
from percale.model.subnet_lease import OTHER_BACKEND, RESERVED, SubnetLease, make_lease
from percale.render.objects import FdbEntry, Link, Neighbour, Route, WireguardPeer
from percale.store.protocol import Deleted, Snapshot, Upserted

Peer = Callable[..., SubnetLease]

NETWORK = {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00::/48"}


def transition(before: str = "vxlan", after: str = "host-gw") -> Transition:
    backends = {"PreviousBackend": {"Type": before}, "Backend": {"Type": after}}
    made = make_backend(network_config(NETWORK | backends))
    assert isinstance(made, Transition)
    return made


def published(backend: Transition, node: LocalNode) -> SubnetLease:
    """What its agent writes."""
    lease, other = make_lease(lease_spec(backend, node)), backend.other_backend(node)
    assert other is not None
    return replace(lease, metadata=replace(lease.metadata, annotations={OTHER_BACKEND: other}))


def kinds(objects: tuple[Any, ...]) -> list[str]:
    return sorted({type(each).__name__ for each in objects})


def test_a_node_has_both(node: LocalNode) -> None:
    both = transition()
    assert [each.name for each in both.device(node) if isinstance(each, Link)] == ["flannel.1", "flannel-v6.1"]
    assert both.pod_mtu(node) == 1430
    assert [end.port for end in both.tunnel_ends(node)] == [8472, 8472]
    assert network_config(NETWORK | {"Backend": {"Type": "host-gw"}, "PreviousBackend": {"Port": 7}}).tunnel_ports == (
        7,
    )


def test_its_lease_says_the_previous_one_until_all_have_both(node: LocalNode) -> None:
    both = transition()
    lease = published(both, node)
    assert (both.type, lease.spec.backendType) == ("vxlan", "vxlan")
    assert lease.metadata.annotations[OTHER_BACKEND] == '{"backendType":"host-gw"}'
    both.moved = True
    lease = published(both, node)
    assert (both.type, lease.spec.backendType, lease.spec.backendData) == ("host-gw", "host-gw", None)
    assert '"backendType":"vxlan","backendData":{"VNI":1,"VtepMAC":"' in lease.metadata.annotations[OTHER_BACKEND]


@pytest.mark.parametrize("moved", [False, True])
def test_a_peer_is_sent_to_as_its_lease_says_and_may_send_by_both(node: LocalNode, moved: bool) -> None:
    theirs = transition()
    theirs.moved = moved
    found = transition().peer(node, published(theirs, replace(node, name="n2")))
    devices = {each.dev for each in found.objects if isinstance(each, Route)}
    assert devices == ({"eth0"} if moved else {"flannel.1", "flannel-v6.1"})
    assert sum(isinstance(each, Neighbour | FdbEntry) for each in found.objects) == 4
    assert found.problem is None


async def test_wireguard_takes_a_peers_packets_before_it_is_sent_to(node: LocalNode, tmp_path: Path) -> None:
    mine, theirs = transition(after="wireguard"), transition(after="wireguard")
    await load_state(mine, tmp_path / "n1")
    await load_state(theirs, tmp_path / "n2")
    found = mine.peer(node, published(theirs, replace(node, name="n2")))
    assert {each.dev for each in found.objects if isinstance(each, Route)} == {"flannel.1", "flannel-v6.1"}
    assert sum(isinstance(each, WireguardPeer) for each in found.objects) == 2
    assert mine.key_renewal is not None


def test_a_peer_with_one_backend_alone_is_reached_by_either(node: LocalNode, peer: Peer) -> None:
    assert kinds(transition().peer(node, peer(2)).objects) == ["FdbEntry", "Neighbour", "Route"]
    assert kinds(transition().peer(node, peer(2, backendType="host-gw", backendData=None)).objects) == ["Route"]
    assert transition().peer(node, peer(2, backendType="ipip")).problem == 'its backend is "ipip", ours "vxlan"'


@pytest.mark.parametrize("text", ["", "{", "null", "7", '{"backendType":"ipip"}', '{"backendType":7}'])
def test_an_annotation_that_says_nothing_of_use_changes_nothing(node: LocalNode, peer: Peer, text: str) -> None:
    lease = peer(2)
    odd = replace(lease, metadata=replace(lease.metadata, annotations={OTHER_BACKEND: text}))
    assert transition().peer(node, odd) == transition().peer(node, lease)
    assert transition().obstacle(node, odd) == ""


class Agent:
    """What n1's agent does with leases; `moves` counts how often its own is to be written again."""

    def __init__(self, directory: Path, node: LocalNode) -> None:
        self.backend, self.state = transition(), NodeState(directory)
        resume(self.backend, self.state)
        self.moves = 0
        self.leases = BackendTransition(
            self.backend, lambda: node, self.state, LineLog("text", io.StringIO()), on_moved=self.count
        )

    def count(self) -> None:
        self.moves += 1


def test_nodes_that_lack_the_new_one_are_waited_for_and_named(tmp_path: Path, node: LocalNode, peer: Peer) -> None:
    agent = Agent(tmp_path, node)
    own, ready = published(agent.backend, node), published(transition(), replace(node, name="n2"))
    old, gone = peer(3), peer(4)
    reservation = peer(5, backendType="", backendData=None)
    reservation = replace(reservation, metadata=replace(reservation.metadata, annotations={RESERVED: "true"}))
    agent.leases.on_lease(Snapshot({SubnetLease: [own, ready, old, gone, reservation]}))
    assert agent.leases.status() == OtherBackend("host-gw", ("n3", "n4"))
    agent.leases.on_lease(Deleted(gone))
    assert (agent.moves, agent.backend.type) == (0, "vxlan")
    now_ready = replace(old, metadata=replace(old.metadata, annotations=ready.metadata.annotations))
    agent.leases.on_lease(Upserted(now_ready))
    assert (agent.moves, agent.backend.type) == (1, "host-gw")
    assert agent.leases.status() == OtherBackend("vxlan", ())
    agent.leases.on_lease(Upserted(peer(6)))
    assert (agent.moves, agent.backend.type) == (1, "host-gw"), "a newcomer that lacks it turns nothing back"
    assert Agent(tmp_path, node).backend.type == "host-gw", "nor does a restart"


def test_a_node_that_the_new_one_does_not_reach_is_waited_for(tmp_path: Path, node: LocalNode) -> None:
    agent = Agent(tmp_path, node)
    away = altered(replace(node, name="n2"), Family.IPV4, public_ip=IPv4Address("198.51.100.2"))
    agent.leases.on_lease(Snapshot({SubnetLease: [published(transition(), away)]}))
    assert agent.backend.type == "vxlan"
    (waiting,) = agent.leases.status().waitingFor
    assert waiting.startswith("n2 (198.51.100.2 is behind a gateway: host-gw needs all nodes on one network segment")


def test_the_way_back_begins_anew(tmp_path: Path) -> None:
    resume(transition("vxlan", "host-gw").parts[1], NodeState(tmp_path))
    back = transition("host-gw", "vxlan")
    resume(back, NodeState(tmp_path))
    assert (back.moved, back.type) == (False, "host-gw")
