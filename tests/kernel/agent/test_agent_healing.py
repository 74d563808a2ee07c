"""While one thing is mended nothing else opens, and what was open is closed again: strangers knock all the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.kernel.agent.cluster import Cluster, until
from tests.kernel.agent.guarded import EVERYTHING, PLAIN, SERVICE, SPOOFED, Guarded


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
    "the guard is flushed": ("flush chain ip percale guard", frozenset({SPOOFED})),
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
        for touch in ("delete table bridge percale", "flush chain bridge percale guard4", "delete table ip percale"):
            began = time.monotonic()
            world.node.sh("nft", touch)
            until(lambda: world.tables() == before, "it is as before")
            world.knocking.until_quiet()
            arrived = world.knocking.arrived
            print(
                touch, "open for", max((when - began for _, when in arrived), default=0.0), "s,", len(arrived), "came"
            )
            assert {name for name, _ in arrived} <= opens
