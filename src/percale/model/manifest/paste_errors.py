"""Finds errors of text pasted from wikis, chats and books, with a hint. Called by `yaml_reader.py`.

A YAML parser fails far below the cause: the first line with such an error is reported instead.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct


class PasteError(Struct, frozen=True):
    """A line, its error and a hint."""

    line: int
    what: str
    hint: str | None


_MARKER = re.compile(r"\s*(?P<marker>\\-\s*|(?:--+|[–—−•‣◦·*]|\\\*)\s+)(?P<rest>[^\s:].*)$")
_WIDE_COLON = re.compile(r"\s*(?:- +)?(?P<key>[\w./-]+)\s*：\s*(?P<rest>.*)$")
_CURLY = re.compile(r"(?:^\s*-|:)\s+(?P<value>[“”„‘’«].*)$")
_WIDE_SPACE = re.compile(r"[ \t]*[\u00a0\u2000-\u200b\u3000]")
_TAB = re.compile(r" *\t")
_NO_COLON = re.compile(r"\s*(?:- +)?(?P<key>[A-Za-z][\w./-]*)(?:\s+(?P<rest>[^\s:].*))?$")
_NO_SPACE = re.compile(r"\s*(?:- +)?(?P<key>[A-Za-z][\w./-]*):(?P<rest>[^\s:].*)$")
_BLOCK_TEXT = re.compile(r"(?:^|[:-])\s*[|>][-+0-9]*\s*$")
_COMMENT = re.compile(r"(?:^|\s)#.*$")


def first_paste_error(lines: Sequence[str], first: int, last: int, near: Collection[int] = ()) -> PasteError | None:
    """The first paste error in these lines (both included). `near`: lines where the parser stopped; a colon is missing there or
    just before.
    """
    suspects = _with_predecessors(lines, near)
    for number, line in _structure(lines, first, last):
        fault = _always(number, line) or (_when_broken(number, line) if number in suspects else None)
        if fault is not None:
            return fault
    return None


def mangled_list_item(number: int, line: str) -> PasteError | None:
    """A list item whose `- ` became another character, or a non-ASCII space; YAML takes both for a part of a key."""
    if _WIDE_SPACE.match(line):
        return PasteError(
            number, "the line begins with a space that is not an ordinary one", "indent with ordinary spaces"
        )
    match = _MARKER.match(line)
    if match is None or line.startswith("---"):
        return None
    marker = match["marker"].strip()
    origin = " (left over from Markdown)" if marker.startswith("\\") else ""
    return PasteError(number, f'a list item begins with "{marker}"{origin}', f"write `- {match['rest']}`")


def _structure(lines: Sequence[str], first: int, last: int) -> Iterator[tuple[int, str]]:
    """The lines without comments and block scalars (`|`, `>`)."""
    block: int | None = None
    for number in range(first, min(last, len(lines)) + 1):
        line = _COMMENT.sub("", lines[number - 1]).rstrip()
        indent = len(line) - len(line.lstrip(" "))
        if not line or (block is not None and indent > block):
            continue
        block = indent if _BLOCK_TEXT.search(line) else None
        yield number, line


def _with_predecessors(lines: Sequence[str], near: Collection[int]) -> set[int]:
    """These lines, and for each the last non-blank one before it."""
    suspects = set(near)
    for number in near:
        before = number - 1
        while before > 0 and not (before <= len(lines) and lines[before - 1].strip()):
            before -= 1
        suspects.add(before)
    return suspects


def _always(number: int, line: str) -> PasteError | None:
    """An error anywhere."""
    if line.startswith("---"):
        return None
    if fault := mangled_list_item(number, line):
        return fault
    if match := _WIDE_COLON.match(line):
        typed = f"{match['key']}: {match['rest']}".rstrip()
        return PasteError(number, "a wide colon (：)", f"write `{typed}`")
    if match := _CURLY.search(line):
        inner = match["value"].strip("“”„‘’«»")
        return PasteError(number, "typographic quotes", f'write `"{inner}"`')
    return None


def _when_broken(number: int, line: str) -> PasteError | None:
    """An error only where the parser stopped: elsewhere it may be a multi-line text."""
    if _TAB.match(line):
        return PasteError(number, "a tab in the indentation", "indent with spaces")
    if match := _NO_SPACE.match(line):
        return PasteError(number, f'no space after "{match["key"]}:"', f"write `{match['key']}: {match['rest']}`")
    if match := _NO_COLON.match(line):
        rest = f" {match['rest']}" if match["rest"] else ""
        return PasteError(number, f'no colon after "{match["key"]}"', f"write `{match['key']}:{rest}`")
    return None
