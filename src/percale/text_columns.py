"""Tables as kubectl prints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest


def widths(rows: Sequence[Sequence[str]], least: Sequence[int] = ()) -> list[int]:
    """Of the columns; at least these."""
    found = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [max(pair) for pair in zip_longest(found, least[: len(found)], fillvalue=0)]


def columns(rows: Sequence[Sequence[str]], indent: str = "", least: Sequence[int] = ()) -> Iterator[str]:
    """A line for each row; three spaces between columns, which are at least so wide: those of a table to continue."""
    wide = widths(rows, least)
    for row in rows:
        yield indent + "   ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip()


def table(rows: Sequence[Sequence[str]]) -> str:
    """The lines as one text; the first row is the head."""
    return "\n".join(columns(rows))
