"""What a migration will do, as steps that say themselves, and what both directions ask first. Called by cli/migrate.py.

A step that was done is not planned again: a migration that was cut short goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from percale.agent.config.settings import AgentConfig
from percale.agent.http import client
from percale.errors import AgentError

FLANNELD = "flanneld"


class Step(Struct, frozen=True):
    """`text` is what the plan says of it. `run` raises PercaleError."""

    text: str
    run: Callable[[], object]


class Plan(Struct, frozen=True):
    """`then` is what is to be done next, by whoever called."""

    steps: tuple[Step, ...]
    then: str


class Places(Struct, frozen=True):
    """Of the CNI state, and of plugins."""

    state: Path
    plugins: Path


def flanneld_pid() -> int | None:
    """That of this node, which is its network namespace."""
    here = Path("/proc/self/ns/net").readlink()
    for entry in Path("/proc").iterdir():
        try:
            named = entry.name.isdecimal() and (entry / "comm").read_text().startswith(FLANNELD)
            if named and (entry / "ns/net").readlink() == here:
                return int(entry.name)
        except OSError:  # it ended meanwhile
            continue
    return None


def agent_is_ready(config: AgentConfig) -> bool | None:
    """None: no agent answers."""
    if config.http is None:
        return None
    try:
        return client.decode(client.fetch(config.http)).ready
    except AgentError:
        return None
