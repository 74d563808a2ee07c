"""Which files `-f` means: a file, all manifests of a directory, or stdin. Called by cli/lab/objects.py and lab/up.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from percale.bounded_file import read_file, read_regular_file, read_stream
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
_MOST_LOOKED_AT = 5000
"""Entries, for that hint: below / there is no end."""

Document = tuple[str, str]
"""What errors call it, and its text."""


class Files(NamedTuple):
    """Files that can be read, and what is wrong with the others."""

    documents: list[Document]
    faults: list[BadManifest]
    names: list[str]
    """Of all, in their order."""


def read(arguments: Sequence[str], *, recursive: bool = False) -> Files:
    """All files that a user means, stdin and pipes too; `recursive`: those of directories below a directory, too."""
    files = Files([], [], [])
    for argument in arguments:
        if argument == "-":
            _add(files, "stdin", partial(read_stream, sys.stdin.buffer, "stdin"))
        else:
            _add_path(files, argument, read_file, recursive=recursive)
    return files


def read_named(path: str) -> Files:
    """The file, or those of the directory, that a document names: regular ones only."""
    files = Files([], [], [])
    _add_path(files, path, read_regular_file, recursive=False)
    return files


def _add_path(files: Files, argument: str, of_file: Callable[[Path], bytes], *, recursive: bool) -> None:
    """`of_file` reads what is no directory; of the entries of one the regular files count."""
    path, shown = Path(argument), printable_path(argument)
    try:
        if not path.is_dir():
            _add(files, shown, partial(of_file, path))
            return
        for entry in _entries(path, shown, recursive=recursive):
            _add(files, printable_path(str(entry)), partial(read_regular_file, entry))
    except BadManifest as fault:
        files.faults.append(fault)
    except OSError as error:
        files.faults.append(_unreadable(error, shown))


def _add(files: Files, source: str, content: Callable[[], bytes]) -> None:
    files.names.append(source)
    try:
        files.documents.append((source, _text(source, content)))
    except BadManifest as fault:
        files.faults.append(fault)


def _entries(path: Path, shown: str, *, recursive: bool) -> list[Path]:
    """Of a directory, in the order of their names. Raises BadManifest, OSError."""
    found = sorted(filter(_is_manifest, _entries_of(path, recursive=recursive)))
    if (template := next((name for name in _RENDERED_BY if (path / name).exists()), None)) is not None:
        what, command = _RENDERED_BY[template]
        raise BadManifest(f"{what}, not manifests", where=shown, hint=f"give the output of: {command} {shown}")
    if not found:
        near = islice(_entries_of(path, recursive=True), _MOST_LOOKED_AT)
        below = sorted({str(entry.parent) for entry in near if _is_manifest(entry)})
        hint = f"there are some in {', '.join(below[:_MOST_NAMED])}" if below else "expected *.yaml, *.yml or *.json"
        raise BadManifest("no manifests in this directory", where=shown, hint=hint)
    return found


def _entries_of(directory: Path, *, recursive: bool) -> Iterator[Path]:
    """Nothing hidden, and no directory behind a link. Raises OSError."""
    for entry in directory.iterdir():
        if not entry.name.startswith("."):
            yield entry
            if recursive and entry.is_dir() and not entry.is_symlink():
                yield from _entries_of(entry, recursive=True)


def _is_manifest(entry: Path) -> bool:
    return entry.suffix in SUFFIXES and not entry.is_dir()


def _text(source: str, content: Callable[[], bytes]) -> str:
    """UTF-8 whatever the locale says, without the mark that Windows' editors begin with. Raises BadManifest."""
    try:
        data = content()
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise BadManifest("no such file or directory", where=source) from error
    except OSError as error:
        raise _unreadable(error, source) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadManifest("not UTF-8 text", where=f"{source}:{line}", hint="save the file as UTF-8") from error
    except ValueError as error:
        raise BadManifest("no file has a NUL in its name", where=source) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _unreadable(error: OSError, shown: str) -> BadManifest:
    return BadManifest(f"cannot be read: {error.strerror}", where=shown)
