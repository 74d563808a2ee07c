"""The agents' tests share one kind of world: see cluster.py."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.agent.cluster import Cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="percale-") as directory:  # short: sockets live in there
        world = Cluster(Path(directory))
        try:
            yield world.open()
        finally:
            world.close()
