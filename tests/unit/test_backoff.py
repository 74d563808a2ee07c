"""The pauses between attempts."""

from __future__ import annotations

from percale.backoff import Backoff


def test_pauses_double_up_to_the_longest_and_begin_anew_after_success() -> None:
    backoff = Backoff(0.1, 0.5)
    assert [backoff.next() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    backoff.reset()
    assert backoff.next() == 0.1
