"""One peer's change touches one source; what cannot be used is skipped with its reason."""

from __future__ import annotations

import io
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

import pytest
from tests import builders
from tests.silent import silent_problems

from percale.agent.logging import LineLog
from percale.agent.network.peers import PEERS, Peers
from percale.backend.protocol import KernelBackend, LocalFamily, LocalNode, PeerObjects
from percale.kernel.protocol import Interface
from percale.model.addresses import IPAddress
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease
from percale.render.network.elements import Element
from percale.render.objects import KernelObject, Route

ETH0 = Interface("eth0", 2, "02:00:00:00:00:01", 1500, up=True, carrier=True)


def local(public_ip: str = "192.168.0.1") -> LocalNode:
    subnet = IPv4Network("10.244.1.0/24")
    return LocalNode("n1", {Family.IPV4: LocalFamily(subnet, ETH0, IPv4Address(public_ip))}, frozenset())


def lease(number: int, *, public_ip: str | None = None, node: str | None = None) -> SubnetLease:
    public_ip, node = public_ip or f"192.168.0.{number}", node or f"n{number}"
    return builders.lease(number, node=node, publicIP=public_ip, backendType="plain")


class Plain(KernelBackend):
    """Routes only; counts how often it is asked."""

    type = "plain"

    def __init__(self) -> None:
        self.rendered = 0
        self.problem: str | None = None

    def peer(self, _node: LocalNode, lease: SubnetLease) -> PeerObjects:
        self.rendered += 1
        assert lease.spec.subnet is not None
        assert lease.spec.publicIP is not None
        return PeerObjects(
            (Route(lease.spec.subnet, "eth0", lease.spec.publicIP),), (lease.spec.publicIP,), self.problem
        )

    def pod_mtu(self, _node: LocalNode) -> int:
        return 1500

    def check(self, _node: LocalNode) -> None:
        return None

    def device(self, _node: LocalNode) -> tuple[KernelObject, ...]:
        return ()


class World:
    """Peers over a recorder."""

    def __init__(self) -> None:
        self.declared: list[tuple[str, tuple[KernelObject, ...]]] = []
        self.log = io.StringIO()
        self.backend = Plain()
        self.elements: dict[str, tuple[Element, ...]] = {}
        self.targets: dict[str, tuple[IPAddress, ...]] = {}
        self.problems = silent_problems()
        self.peers = Peers(
            local(),
            self.backend,
            (IPv4Network("10.244.0.0/16"),),
            self._want,
            self._want_elements,
            set_targets=self.targets.__setitem__,
            log=LineLog("text", self.log),
            problems=self.problems,
        )

    def _want(self, source: str, objects: Iterable[KernelObject]) -> None:
        self.declared.append((source, tuple(objects)))

    def _want_elements(self, source: str, elements: Iterable[Element]) -> None:
        self.elements[source] = tuple(elements)

    def take_declared(self) -> list[tuple[str, tuple[KernelObject, ...]]]:
        declared, self.declared = self.declared, []
        return declared


def routes(number: int, via: str | None = None) -> tuple[KernelObject, ...]:
    return (Route(IPv4Network(f"10.244.{number}.0/24"), "eth0", IPv4Address(via or f"192.168.0.{number}")),)


@pytest.fixture
def world() -> World:
    world = World()
    list(world.peers.replace([lease(number) for number in range(1, 5)]))
    world.take_declared()
    return world


def test_the_first_snapshot_is_one_line_and_leaves_our_own_lease_out() -> None:
    world = World()
    list(world.peers.replace([lease(1), lease(2), lease(3)]))
    assert world.take_declared() == [("peer/10.244.2.0-24", routes(2)), ("peer/10.244.3.0-24", routes(3))]
    assert world.log.getvalue().count("\n") == 1
    assert "peers known  reached=2 of=2" in world.log.getvalue()


def test_the_guards_know_the_public_addresses_of_peers_that_are_reached(world: World) -> None:
    assert world.elements == {
        f"peer/10.244.{number}.0-24": (Element("ip", "peers", (IPv4Address(f"192.168.0.{number}"),)),)
        for number in (2, 3, 4)
    }
    world.peers.put(lease(3, public_ip="192.168.0.99"))
    assert world.elements["peer/10.244.3.0-24"] == (Element("ip", "peers", (IPv4Address("192.168.0.99"),)),)
    world.peers.remove(lease(2))
    world.peers.put(lease(4, node="n1"))
    assert world.elements["peer/10.244.2.0-24"] == world.elements["peer/10.244.4.0-24"] == ()


def test_one_change_asks_the_backend_once_and_touches_one_source(world: World) -> None:
    world.backend.rendered = 0
    world.peers.put(lease(3, public_ip="192.168.0.99"))
    assert world.take_declared() == [("peer/10.244.3.0-24", routes(3, "192.168.0.99"))]
    assert world.backend.rendered == 1


def test_equal_content_is_no_change(world: World) -> None:
    world.peers.put(lease(3))
    assert world.take_declared() == []


def test_our_own_lease_is_no_peer(world: World) -> None:
    world.peers.put(lease(1, public_ip="192.168.0.77"))
    world.peers.remove(lease(1))
    assert world.take_declared() == []


def test_a_peers_lease_that_becomes_ours_is_no_peer_any_more(world: World) -> None:
    world.peers.put(lease(3, node="n1"))
    assert world.take_declared() == [("peer/10.244.3.0-24", ())]
    assert len(world.peers) == 2


def test_a_peer_that_leaves_takes_its_objects(world: World) -> None:
    world.peers.remove(lease(2))
    world.peers.remove(lease(2))
    assert world.take_declared() == [("peer/10.244.2.0-24", ())]
    assert (world.peers.reached, len(world.peers)) == (2, 2)


def test_a_later_snapshot_is_taken_as_a_difference(world: World) -> None:
    list(world.peers.replace([lease(1), lease(3), lease(4), lease(5)]))
    assert world.take_declared() == [("peer/10.244.2.0-24", ()), ("peer/10.244.5.0-24", routes(5))]


def problems(world: World) -> dict[str, str | None]:
    return {peer.node: peer.problem for peer in world.peers.status()}


def test_a_lease_that_cannot_be_used_is_left_out_with_its_reason_until_it_can(world: World) -> None:
    world.peers.put(lease(2, public_ip="192.168.0.1"))
    assert world.take_declared() == [("peer/10.244.2.0-24", ())]
    assert (world.peers.reached, len(world.peers)) == (2, 3)
    assert problems(world) == {"n2": "nodes n2 and n1 have one public address, 192.168.0.1", "n3": None, "n4": None}
    world.peers.put(lease(2))
    assert world.take_declared() == [("peer/10.244.2.0-24", routes(2))]
    assert (world.peers.reached, problems(world)["n2"]) == (3, None)


def test_of_two_rivals_the_first_stays_and_the_other_has_its_turn(world: World) -> None:
    world.peers.put(lease(5, public_ip="192.168.0.2"))
    assert world.take_declared() == [("peer/10.244.5.0-24", ())]
    assert problems(world)["n5"] == "nodes n2 and n5 have one public address, 192.168.0.2"
    world.peers.remove(lease(2))
    assert world.take_declared() == [("peer/10.244.2.0-24", ()), ("peer/10.244.5.0-24", routes(5, "192.168.0.2"))]
    assert (world.peers.reached, problems(world)["n5"]) == (3, None)


def test_a_rival_has_its_turn_when_the_first_changes(world: World) -> None:
    world.peers.put(lease(5, public_ip="192.168.0.2"))
    world.take_declared()
    world.peers.put(lease(2, public_ip="192.168.0.22"))
    assert world.take_declared() == [
        ("peer/10.244.2.0-24", routes(2, "192.168.0.22")),
        ("peer/10.244.5.0-24", routes(5, "192.168.0.2")),
    ]


def test_a_peer_left_out_that_leaves_is_forgotten(world: World) -> None:
    world.peers.put(lease(2, public_ip="192.168.0.1"))
    world.peers.remove(lease(2))
    assert (world.peers.reached, len(world.peers)) == (2, 2)


def test_a_node_that_moves_renders_all_peers_again(world: World) -> None:
    assert len(list(world.peers.update_local(local("192.168.0.2")))) == 3
    assert world.take_declared() == [
        ("peer/10.244.2.0-24", ()),
        ("peer/10.244.3.0-24", routes(3)),
        ("peer/10.244.4.0-24", routes(4)),
    ]


def test_a_peer_that_leaves_while_the_node_moves_stays_away(world: World) -> None:
    moving = world.peers.update_local(local())
    next(moving)
    world.peers.remove(lease(4))
    list(moving)
    assert world.take_declared()[-1] != ("peer/10.244.4.0-24", routes(4))


def test_peers_that_are_not_reached_are_one_problem_of_the_node(world: World) -> None:
    def problems() -> list[str]:
        return [each.error for each in world.problems.current.values()]

    assert problems() == []
    world.backend.problem = "behind a gateway"
    world.peers.put(lease(2, public_ip="192.168.9.2"))
    assert problems() == ["node n2 is partly reached: behind a gateway"]
    world.peers.put(lease(3, public_ip="192.168.9.3"))
    world.peers.put(lease(4, public_ip="192.168.9.4"))
    assert problems() == ["node n2 is partly reached: behind a gateway (and 2 more nodes with problems)"]
    world.peers.remove(lease(2))
    assert problems() == ["node n3 is partly reached: behind a gateway (and 1 more node with problems)"]
    world.backend.problem = None
    list(world.peers.update_local(local()))
    assert problems() == []


def test_a_peer_that_does_not_answer_is_not_reached(world: World) -> None:
    assert world.targets == {f"10.244.{n}.0-24": (IPv4Address(f"192.168.0.{n}"),) for n in (2, 3, 4)}
    world.peers.set_silent({"10.244.3.0-24": (IPv4Address("192.168.0.3"),)})
    states = {peer.node: (peer.reached, peer.problem, peer.path) for peer in world.peers.status()}
    assert states["n3"] == (False, "no answer from 192.168.0.3", "direct")
    assert states["n2"] == (True, None, "direct")
    assert (world.peers.reached, len(world.peers)) == (2, 3)
    assert world.problems.current[PEERS].error == "node n3 is not reached: no answer from 192.168.0.3"
    world.peers.put(lease(3, public_ip="192.168.0.99"))
    assert world.peers.reached == 3, "another gateway has not been asked yet"
    world.peers.set_silent({"10.244.3.0-24": (IPv4Address("192.168.0.99"),)})
    world.peers.set_silent({"10.244.3.0-24": ()})
    assert not world.problems.current
    world.peers.remove(lease(3, public_ip="192.168.0.99"))
    assert world.targets["10.244.3.0-24"] == ()
    world.peers.set_silent({"10.244.3.0-24": (IPv4Address("192.168.0.99"),)})
    assert world.peers.reached == 2
