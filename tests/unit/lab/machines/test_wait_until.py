"""Waiting for what a lab's machines become."""

from __future__ import annotations

import pytest

from percale.errors import LabError
from percale.lab.machines.machines import wait_until


async def test_it_returns_once_the_condition_holds() -> None:
    answers = iter([False, False, True])
    await wait_until(lambda: next(answers), "it is so", "look", timeout_seconds=60)
    assert next(answers, None) is None


async def test_what_does_not_come_is_named_with_what_to_type() -> None:
    with pytest.raises(LabError) as error:
        await wait_until(lambda: False, "the agent of n1 is ready", "look at: percale lab status", timeout_seconds=0)
    assert str(error.value) == "the agent of n1 is ready: still not so after 0 s; look at: percale lab status"
