"""Keys that no text shows."""

from __future__ import annotations

import msgspec
import pytest

from percale.secret import Secret


class Holder(msgspec.Struct, frozen=True):
    key: Secret


def test_equal_ones_are_equal_and_none_is_shown() -> None:
    one, same, other = Secret(b"one"), Secret(b"one"), Secret(b"other")
    assert one == same != other
    assert one != b"one"
    assert hash(one) == hash(same)
    assert one.reveal() == b"one"
    for shown in (repr(one), str(one), f"{one}", f"{one!r}", repr(Holder(one)), repr([one])):
        assert "one" not in shown
    with pytest.raises(TypeError):
        msgspec.json.encode(Holder(one))
