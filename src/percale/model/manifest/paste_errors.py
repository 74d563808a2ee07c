"""Faults that come with text pasted from wikis, chats and books, and what to type instead. Called by `reading_yaml`.

A document that is broken says so far below the place where it broke: the first such line up to there is the one to name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct


class Fault(Struct, frozen=True):
    """A line, what is wrong with it, and what to do about it."""

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


def first_fault(lines: Sequence[str], first: int, last: int, near: Collection[int] = ()) -> Fault | None:
    """The first fault from line to line (both count). `near`: lines where the parser stopped, so that a colon is missing
    there or just before.
    """
    suspects = _with_predecessors(lines, near)
    for number, line in _structure(lines, first, last):
        fault = _always(number, line) or (_when_broken(number, line) if number in suspects else None)
        if fault is not None:
            return fault
    return None


def lost_form(number: int, line: str) -> Fault | None:
    """What YAML would take for a part of a name: a list item whose `- ` became something else, a space of another kind."""
    if _WIDE_SPACE.match(line):
        return Fault(number, "the line begins with a space that is not an ordinary one", "indent with ordinary spaces")
    match = _MARKER.match(line)
    if match is None or line.startswith("---"):
        return None
    marker = match["marker"].strip()
    origin = " (left over from Markdown)" if marker.startswith("\\") else ""
    return Fault(number, f'a list item begins with "{marker}"{origin}', f"write `- {match['rest']}`")


def _structure(lines: Sequence[str], first: int, last: int) -> Iterator[tuple[int, str]]:
    """The lines without comments, and without the block texts (`|`, `>`), which may hold anything."""
    block: int | None = None
    for number in range(first, min(last, len(lines)) + 1):
        line = _COMMENT.sub("", lines[number - 1]).rstrip()
        indent = len(line) - len(line.lstrip(" "))
        if not line or (block is not None and indent > block):
            continue
        block = indent if _BLOCK_TEXT.search(line) else None
        yield number, line


def _with_predecessors(lines: Sequence[str], near: Collection[int]) -> set[int]:
    """These lines, and before each the last one that is not blank."""
    suspects = set(near)
    for number in near:
        before = number - 1
        while before > 0 and not (before <= len(lines) and lines[before - 1].strip()):
            before -= 1
        suspects.add(before)
    return suspects


def _always(number: int, line: str) -> Fault | None:
    """Wrong wherever it stands."""
    if line.startswith("---"):
        return None
    if fault := lost_form(number, line):
        return fault
    if match := _WIDE_COLON.match(line):
        typed = f"{match['key']}: {match['rest']}".rstrip()
        return Fault(number, "a wide colon (：)", f"write `{typed}`")
    if match := _CURLY.search(line):
        inner = match["value"].strip("“”„‘’«»")
        return Fault(number, "typographic quotes", f'write `"{inner}"`')
    return None


def _when_broken(number: int, line: str) -> Fault | None:
    """Wrong only where the parser could not go on: elsewhere it is a text over several lines."""
    if _TAB.match(line):
        return Fault(number, "a tab in the indentation", "indent with spaces")
    if match := _NO_SPACE.match(line):
        return Fault(number, f'no space after "{match["key"]}:"', f"write `{match['key']}: {match['rest']}`")
    if match := _NO_COLON.match(line):
        rest = f" {match['rest']}" if match["rest"] else ""
        return Fault(number, f'no colon after "{match["key"]}"', f"write `{match['key']}:{rest}`")
    return None
