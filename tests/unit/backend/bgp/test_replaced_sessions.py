"""Sessions that are dropped stay until others have brought all their routes."""

from __future__ import annotations

from ipaddress import IPv4Address

from percale.backend.bgp.bird_socket import LearnedRoute
from percale.backend.bgp.replaced_sessions import LONGEST, ReplacedSessions
from percale.backend.bgp.speaker import Session

NODES = {"n2", "n3"}


def session(name: str, number: int = 2, port: int = 179, node: str | None = "n2") -> Session:
    return Session(
        name=name,
        type="global",
        neighbor=IPv4Address(f"192.0.2.{number}"),
        as_number=1,
        local_as=1,
        node=node,
        port=port,
    )


def learned(*routes: tuple[str, str]) -> list[LearnedRoute]:
    return [LearnedRoute(network, protocol, "via …", best=True) for network, protocol in routes]


MESH, REFLECTED = session("Mesh"), session("Node", port=1790)


def names(found: tuple[Session, ...]) -> list[str]:
    return [each.name for each in found]


def test_it_stays_until_its_routes_are_there_by_another_for_a_while() -> None:
    sessions = ReplacedSessions()
    assert sessions.update([MESH], [], NODES, 0) == ()
    assert not sessions.waiting([MESH])
    assert sessions.waiting([REFLECTED])
    only = learned(("10.244.2.0/24", "Mesh"), ("10.244.3.0/24", "Mesh"), ("10.244.2.0/24", "Node"))
    both = [*only, *learned(("10.244.3.0/24", "Node"))]
    assert names(sessions.update([REFLECTED], only, NODES, 1)) == ["Mesh"]
    assert names(sessions.update([REFLECTED], both, NODES, 2)) == ["Mesh"]
    assert names(sessions.update([REFLECTED], only, NODES, 3)) == ["Mesh"]
    assert names(sessions.update([REFLECTED], both, NODES, 4)) == ["Mesh"]
    assert names(sessions.update([REFLECTED], both, NODES, 5)) == ["Mesh"]
    assert names(sessions.update([REFLECTED], both, NODES, 6)) == []
    assert not sessions.waiting([REFLECTED])


def test_another_that_is_dropped_as_well_is_none() -> None:
    sessions = ReplacedSessions()
    other = session("Mesh3", 3, node="n3")
    sessions.update([MESH, other], [], NODES, 0)
    routes = learned(("10.244.2.0/24", "Mesh"), ("10.244.2.0/24", "Mesh3"))
    for now in (1, 2, 10, LONGEST):
        assert names(sessions.update([], routes, NODES, now)) == ["Mesh", "Mesh3"]
    assert sessions.update([], routes, NODES, LONGEST + 1) == ()


def test_what_has_no_routes_or_comes_back_or_has_no_node_goes() -> None:
    sessions = ReplacedSessions()
    router = session("Router", 9, node=None)
    sessions.update([MESH, router], [], NODES, 0)
    assert names(sessions.update([REFLECTED], [], NODES, 1)) == ["Mesh"], "a router outside is dropped at once"
    assert names(sessions.update([MESH], [], NODES, 2)) == ["Node"]
    assert sessions.update([MESH], [], NODES, 4) == ()
    sessions.update([], learned(("10.244.2.0/24", "Mesh")), NODES, 5)
    assert sessions.update([], learned(("10.244.2.0/24", "Mesh")), {"n3"}, 6) == ()
    sessions.update([MESH], [], NODES, 7)
    assert names(sessions.update([], [], NODES, 8)) == ["Mesh"]
    assert sessions.update([], [], NODES, 10) == ()


def test_a_session_of_another_name_with_the_same_ends_takes_its_place() -> None:
    sessions = ReplacedSessions()
    sessions.update([MESH], [], NODES, 0)
    assert sessions.update([session("Global")], learned(("10.244.2.0/24", "Mesh")), NODES, 1) == ()
