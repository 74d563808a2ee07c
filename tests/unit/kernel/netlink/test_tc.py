"""Shapers as messages, there and back."""

from __future__ import annotations

from percale.kernel.netlink import tc
from percale.render.objects import Shaper


def test_a_shaper_there_and_back() -> None:
    desired = Shaper("eth0", 10_000_000, 800_000)
    _, request = tc.put_shaper(desired, 2)
    assert tc.decode_shaper(request.body) == (10_000_000, 800_000)
