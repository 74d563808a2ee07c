"""Commands for a lab as one types them, and which lab they mean without `--lab`. Used wherever a command is printed.

PERCALE_LAB of who asks ─ api/client.py ─▶ api/server.py ─▶ ASKER ─▶ default_lab()
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Literal

DEFAULT_NAME = "lab"

ASKER: ContextVar[str | None] = ContextVar("ASKER", default=None)
"""In a lab, while it answers a request: the default lab of who asks."""


def default_lab() -> str:
    """The lab's name."""
    return ASKER.get() or os.environ.get("PERCALE_LAB") or DEFAULT_NAME


def lab_words(lab: str) -> str:
    """What a command needs behind its verb to mean this lab."""
    return "" if lab == default_lab() else f" --lab {lab}"


def lab_command(lab: str, words: str) -> str:
    """A verb of `percale lab` with its arguments."""
    verb, _, rest = words.partition(" ")
    return f"percale lab {verb}{lab_words(lab)}{f' {rest}' if rest else ''}"


def run_at(lab: str, place: str, command: str, verb: Literal["node", "exec"] = "node") -> str:
    """A program on a node or host, or in a pod (`exec`)."""
    return lab_command(lab, f"{verb} {place} -- {command}")
