"""The agent's log and problems, where a test looks at no line of the log."""

from __future__ import annotations

import io
from typing import Any

from percale.agent.logging import LineLog
from percale.agent.problems import Problems


def silent_log() -> LineLog:
    return LineLog("text", io.StringIO())


def silent_problems(**options: Any) -> Problems:
    return Problems(silent_log(), **options)
