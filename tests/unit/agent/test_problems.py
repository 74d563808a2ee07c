"""What is wrong now: what an object's author writes neither fills logs nor the status."""

from __future__ import annotations

import io

from percale.agent.logging import LineLog
from percale.agent.problems import Problems
from percale.errors import BadManifest


def test_a_very_long_error_is_shortened() -> None:
    log = io.StringIO()
    problems = Problems(LineLog("text", log))
    error = BadManifest("strategy " + "x" * 250_000, hint="write another")
    problems.raise_("service x/y", error)
    problems.record("service x/z", error)
    text = problems.current["service x/y"].error
    assert text.startswith("strategy xxx")
    assert text.endswith("write another")
    assert len(text) < 3000 > len(log.getvalue()) / 3
    problems.raise_("service x/y", error)
    assert log.getvalue().count("problem") == 2
