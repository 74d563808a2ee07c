"""Which files `-f` means: a file, all manifests of a directory, or stdin. Called by cli/lab/objects.py and lab/up.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from percale.errors import BadManifest
from percale.printable import printable_path

SUFFIXES = frozenset({".yaml", ".yml", ".json"})

_KUSTOMIZATION = ("a kustomization", "kubectl kustomize")
_RENDERED_BY = {
    "Chart.yaml": ("a Helm chart", "helm template"),
    "kustomization.yaml": _KUSTOMIZATION,
    "kustomization.yml": _KUSTOMIZATION,
    "Kustomization": _KUSTOMIZATION,
}
"""Files that say that the directory's others are only parts: what it is, and what makes manifests of it."""
_MOST_NAMED = 5
"""Directories in a hint."""

Document = tuple[str, str]
"""What errors call it, and its text."""


class Files(NamedTuple):
    """Files that can be read, and what is wrong with the others."""

    documents: list[Document]
    faults: list[BadManifest]
    names: list[str]
    """Of all, in their order."""


def read(arguments: Sequence[str], *, recursive: bool = False) -> Files:
    """All files that are meant; `recursive`: those of directories below a directory, too."""
    files = Files([], [], [])
    for argument in arguments:
        try:
            for source, path in _meant(argument, recursive=recursive):
                files.names.append(source)
                try:
                    files.documents.append((source, _text(source, path)))
                except BadManifest as fault:
                    files.faults.append(fault)
        except BadManifest as fault:
            files.faults.append(fault)
    return files


def _meant(argument: str, *, recursive: bool) -> list[tuple[str, Path | None]]:
    """(what errors call it, path or None for stdin), directories in the order of their names. Raises BadManifest."""
    path, shown = Path(argument), printable_path(argument)
    if argument == "-":
        return [("stdin", None)]
    try:
        if not path.is_dir():
            return [(shown, path)]
        found = sorted(_files_in(path, recursive=recursive))
    except OSError as error:
        raise BadManifest(f"cannot be read: {error.strerror}", where=shown) from error
    if (template := next((name for name in _RENDERED_BY if (path / name).exists()), None)) is not None:
        what, command = _RENDERED_BY[template]
        raise BadManifest(f"{what}, not manifests", where=shown, hint=f"give the output of: {command} {shown}")
    if not found:
        below = sorted({str(entry.parent) for entry in _files_in(path, recursive=True)})
        hint = f"there are some in {', '.join(below[:_MOST_NAMED])}" if below else "expected *.yaml, *.yml or *.json"
        raise BadManifest("no manifests in this directory", where=shown, hint=hint)
    return [(printable_path(str(entry)), entry) for entry in found]


def _files_in(directory: Path, *, recursive: bool) -> Iterator[Path]:
    """Nothing hidden, and no directory behind a link. Raises OSError."""
    for entry in directory.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if recursive and not entry.is_symlink():
                yield from _files_in(entry, recursive=True)
        elif entry.suffix in SUFFIXES:
            yield entry


def _text(source: str, path: Path | None) -> str:
    """UTF-8 whatever the locale says, without the mark that Windows' editors begin with. Raises BadManifest."""
    try:
        data = sys.stdin.buffer.read() if path is None else path.read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise BadManifest("no such file or directory", where=source) from error
    except OSError as error:
        raise BadManifest(f"cannot be read: {error.strerror}", where=source) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadManifest("not UTF-8 text", where=f"{source}:{line}", hint="save the file as UTF-8") from error
    except ValueError as error:
        raise BadManifest("no file has a NUL in its name", where=source) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
