"""An agent's state: from `agents`, to the verbs and the commands that show it."""

from __future__ import annotations

from msgspec import Struct


class AgentState(Struct, frozen=True):
    """An agent as `lab status` shows it; `pid` is None while it does not run. The field names are an interface."""

    ready: bool = False
    pid: int | None = None
    restarts: int = 0
    problem: str | None = None
