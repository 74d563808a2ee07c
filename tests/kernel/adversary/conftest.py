"""One world after the other, each for all attacks on its terms."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.kernel.adversary.worlds import Terms, World
from tests.kernel.agent.cluster import Cluster


@pytest.fixture(scope="module")
def world_of() -> Iterator[Callable[[Terms], World]]:
    """The world on these terms; another one's end comes first, for their namespaces have the same names."""
    current: list[World] = []
    with ExitStack() as down:

        def give(terms: Terms) -> World:
            if not current or current[0].terms != terms:
                current.clear()
                down.close()
                current.append(_open(terms, down))
            return current[0]

        yield give


def _open(terms: Terms, down: ExitStack) -> World:
    directory = down.enter_context(tempfile.TemporaryDirectory(prefix="percale-"))  # short: sockets live in there
    cluster = Cluster(Path(directory))
    down.callback(cluster.close)
    world = World(cluster.open(), terms)
    down.callback(world.close)
    return world.open()
