"""Which lab commands without `--lab` mean. Called by the commands, and in a lab for the commands that it prints.

PERCALE_LAB of who asks ─ api/client.py ─▶ api/server.py ─▶ ASKER ─▶ LabDir.command
"""

from __future__ import annotations

import os
from contextvars import ContextVar

DEFAULT_NAME = "lab"

ASKER: ContextVar[str | None] = ContextVar("ASKER", default=None)
"""In a lab, while it answers a request: the default lab of who asks."""


def default_lab() -> str:
    """The lab's name."""
    return ASKER.get() or os.environ.get("PERCALE_LAB") or DEFAULT_NAME
