"""Writes subnet.env for docker and for other readers of flannel's. Called by `node_network.py`."""

from __future__ import annotations

from pathlib import Path

from percale.agent.problems import Problems
from percale.atomic_file import replace_file
from percale.errors import StateError
from percale.model.subnet_env import FILE


def write_subnet_file(path: Path, text: str, problems: Problems) -> None:
    """Where it is not so already. A failure is a problem: pods do not need the file."""
    content = text.encode()
    try:
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content, mode=0o644)
    except OSError as error:
        hint = "set subnetFile to another path, or to null where no program reads it"
        problems.raise_(FILE, StateError(f"cannot be written: {error.strerror}", where=str(path), hint=hint))
    else:
        problems.clear(FILE)
