"""A network namespace of a test's own, with lo up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from percale.kernel.netns import create_namespace, delete_namespace
from percale.kernel.protocol import Upsert
from percale.kernel.rtnl.driver import opened_at
from percale.render.objects import Link


@pytest.fixture
def namespace() -> Iterator[Path]:
    path = Path("/run/netns/test")
    create_namespace(path)
    with opened_at(path) as driver:
        assert list(driver.apply([Upsert(Link("lo"))])) == [None]
    yield path
    delete_namespace(path)
