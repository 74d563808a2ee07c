"""While one thing is mended nothing else opens, and what was open is closed again: strangers knock all the time."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.kernel.agent.cluster import Cluster
from tests.kernel.agent.guarded import EVERYTHING, PLAIN, SERVICE, SPOOFED, Guarded
from tests.waiting import until


@pytest.fixture
def down() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


TOUCHES: dict[str, tuple[str, frozenset[str]]] = {
    "everything is flushed": ("flush ruleset", EVERYTHING),
    "policies are deleted": ("delete table inet percale", frozenset({PLAIN, SERVICE})),
    "policies are flushed": ("flush chain inet percale policies", frozenset({PLAIN, SERVICE})),
    "a judging element is deleted": (
        "delete element inet percale ingress4 {{ {server} }}",
        frozenset({PLAIN, SERVICE}),
    ),
    "Services are deleted": ("delete table inet percale-services", frozenset()),
    "Services are flushed": ("flush chain inet percale-services services", frozenset()),
    "endpoints are flushed": ("flush map inet percale-services endpoints4", frozenset()),
    "the shortcut is deleted": ("delete table netdev percale", frozenset()),
    "the guard is deleted": ("delete table ip percale", frozenset({SPOOFED})),
    "the guard is flushed": ("flush chain ip percale antispoof", frozenset({SPOOFED})),
    "sources are flushed": ("flush set ip percale sources", frozenset()),
    "the other family's guard is deleted": ("delete table ip6 percale", frozenset()),
    "the bridge's guard is deleted": ("delete table bridge percale", frozenset()),
}


@pytest.mark.parametrize(("touch", "opens"), TOUCHES.values(), ids=TOUCHES.keys())
def test_what_somebody_deletes_opens_nothing_else_and_is_closed_again(
    cluster: Cluster, down: ExitStack, touch: str, opens: frozenset[str]
) -> None:
    world = Guarded(cluster, down)
    before = world.tables()
    with world.knocking.going():
        world.knocking.until_quiet()
        assert not world.knocking.arrived
        began = time.monotonic()
        world.node.sh("nft", touch.format(server=world.address("server")))
        until(lambda: world.tables() == before, "it is as before")
        world.knocking.until_quiet()
    arrived = world.knocking.arrived
    print("open for", max((when - began for _, when in arrived), default=0.0), "s,", len(arrived), "came")
    assert {name for name, _ in arrived} <= opens


@pytest.mark.parametrize("opens", [frozenset({SPOOFED})])
def test_on_a_bridge_likewise(cluster: Cluster, down: ExitStack, opens: frozenset[str]) -> None:
    world = Guarded(cluster, down, "bridge")
    before = world.tables()
    with world.knocking.going():
        world.knocking.until_quiet()
        assert not world.knocking.arrived
        for touch in (
            "delete table bridge percale",
            "flush chain bridge percale antispoof4",
            "delete table ip percale",
        ):
            began = time.monotonic()
            world.node.sh("nft", touch)
            until(lambda: world.tables() == before, "it is as before")
            world.knocking.until_quiet()
            arrived = world.knocking.arrived
            print(
                touch, "open for", max((when - began for _, when in arrived), default=0.0), "s,", len(arrived), "came"
            )
            assert {name for name, _ in arrived} <= opens


def test_a_store_that_is_away_or_bad_opens_nothing(cluster: Cluster, down: ExitStack) -> None:
    """Nor does an agent that starts while it is, whatever else happens to the node meanwhile."""
    world = Guarded(cluster, down)
    policy = cluster.store / "NetworkPolicy-friend.yaml"
    good, away = policy.read_bytes(), cluster.directory / "away"
    server = next(line.split("@")[0] for line in world.node.ip("-br", "link").splitlines() if line.startswith("pcl"))
    with world.knocking.going():
        policy.write_bytes(b"{")
        until(lambda: world.node.status.problems, "it is told")
        world.node.stop(signal.SIGKILL)
        world.node.launch()
        until(lambda: (status := world.node.ask()) is not None and status.problems, "told by its next life")
        world.knocking.until_quiet()
        (cluster.store / "NetworkPolicy-deny.yaml").unlink()
        world.knocking.until_quiet()
        policy.write_bytes(good)
        world.node.wait_ready()
        cluster.store.rename(away)
        until(lambda: world.node.status.problems, "it is told")
        world.node.ip("link", "delete", server)
        world.knocking.until_quiet()
        world.node.stop(signal.SIGKILL)
        world.node.launch()
        world.knocking.until_quiet()
        away.rename(cluster.store)
        world.node.wait_ready()
        world.knocking.until_quiet()
    assert not world.knocking.arrived


def test_a_route_that_somebody_deletes_again_and_again_is_an_event_of_the_node(cluster: Cluster) -> None:
    node, peer = (cluster.node(number).start() for number in (1, 2))
    until(lambda: node.ip("route", "show", peer.subnet), "its peer is there")
    for _ in range(5):
        node.ip("route", "delete", peer.subnet)
        until(lambda: node.ip("route", "show", peer.subnet), "it is back")
    (event,) = until(lambda: list(cluster.store.glob("Event/**/*.*")), "it is told")
    told = event.read_text()
    assert "RepairedRepeatedly" in told
    assert f"ip route replace {peer.subnet} " in told
