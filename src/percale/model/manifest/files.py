"""Which files `-f` means: a file, all manifests of a directory, or stdin. Called by cli/lab/objects.py and lab/up.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from percale.errors import BadInput

SUFFIXES = frozenset({".yaml", ".yml", ".json"})

Document = tuple[str, str]
"""What errors call it, and its text."""


def read(arguments: Sequence[str]) -> list[Document]:
    """The text of every file that is meant. Raises BadInput."""
    return [(source, _text(source, path)) for source, path in _meant(arguments)]


def _meant(arguments: Sequence[str]) -> Iterator[tuple[str, Path | None]]:
    """(what errors call it, path or None for stdin), directories in the order of their names."""
    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            yield "stdin", None
        elif path.is_dir():
            found = sorted(
                entry for entry in path.iterdir() if entry.suffix in SUFFIXES and not entry.name.startswith(".")
            )
            if not found:
                raise BadInput(
                    "no manifests in this directory", where=argument, hint="expected *.yaml, *.yml or *.json"
                )
            yield from ((str(entry), entry) for entry in found)
        elif path.exists():
            yield argument, path
        else:
            raise BadInput("no such file or directory", where=argument)


def _text(source: str, path: Path | None) -> str:
    """UTF-8 whatever the locale says."""
    try:
        text = (sys.stdin.buffer.read() if path is None else path.read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadInput(f"cannot be read: {reason}", where=source) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
