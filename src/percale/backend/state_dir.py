"""What backends keep on this node: a directory each, below the agent's state directory. Called by the agent and its cleanup."""

from __future__ import annotations

import shutil
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from percale.backend.protocol import Backend
from percale.backend.registry import BACKENDS
from percale.backend.transition import Transition
from percale.errors import StateError
from percale.model.backend_options import OPTIONS

BACKEND_STATE = "backend"
"""In the agent's state directory; its entries are named by the backends' types."""


async def load_state(backend: Backend, state_dir: Path) -> None:
    """Load what this backend keeps, after those before it have ended. Raises StateError."""
    parts = backend.parts if isinstance(backend, Transition) else (backend,)
    await retire_backends(state_dir, keep={each.type for each in parts})
    for each in parts:
        if each.keeps_state:
            directory = state_dir / BACKEND_STATE / each.type
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StateError(f"cannot be made: {error.strerror}", where=str(directory)) from error
            each.load(directory)


async def retire_backends(state_dir: Path, *, keep: Container[str] = ()) -> list[Path]:
    """End the processes of this node's other backends, and remove what they kept: the directories. Raises StateError."""
    removed = []
    for directory in sorted((state_dir / BACKEND_STATE).glob("*")):
        if directory.name in keep:
            continue
        if directory.name in BACKENDS:
            before = BACKENDS[directory.name](OPTIONS[directory.name]())
            with suppress(StateError):  # a key that cannot be read: it has no process
                before.load(directory)
            if before.process is not None:
                await before.process.stop()
        try:
            shutil.rmtree(directory)
        except OSError as error:
            raise StateError(f"cannot be removed: {error.strerror}", where=str(error.filename)) from error
        removed.append(directory)
    return removed
