"""A matrix as text and CSV. Called by cli/matrix.py; `graph.py` takes its symbols from here. Pure.

Rows are sources, columns are destinations by number. Cells show the ports if they fit, else a letter that is explained
below; if letters do not fit either, it is a list. Its columns are closer than those of `text_columns`: a square must fit
the terminal, and fewer workloads would.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from string import ascii_lowercase, ascii_uppercase
from textwrap import wrap

from percale.explain.matrix.matrix import Cell, Matrix
from percale.explain.matrix.port_space import PortSet
from percale.explain.pod_owners import Group

NONE, ALL, PARTLY = "-", "#", "~"

_CORNER = "from ╲ to"
_LETTERS = ascii_lowercase + ascii_uppercase


def names(groups: Sequence[Group]) -> list[str]:
    """As people call them; two workloads of one name have their kind behind it."""
    count = Counter(map(str, groups))
    return [f"{group} ({group.kind})" if count[str(group)] > 1 else str(group) for group in groups]


def format_cell(matrix: Matrix, cell: Cell) -> str:
    """`TCP 80`; `~TCP 80` when not every pair gets it."""
    return f"{PARTLY if cell.partly else ''}{format_ports(matrix, cell.some)}"


def format_ports(matrix: Matrix, ports: PortSet) -> str:
    """In words."""
    return NONE if not ports else matrix.space.text(ports)


def symbols(matrix: Matrix) -> dict[Cell, str]:
    """A character for each cell that there is, the most frequent first; numbers when letters run out."""
    count = Counter(edge.cell for edge in matrix.edges())
    fixed = {Cell(0, 0): NONE, Cell(matrix.asked, matrix.asked): ALL}
    others = [cell for cell, _ in count.most_common() if cell not in fixed]
    marks = [*_LETTERS, *map(str, range(1, 1 + max(0, len(others) - len(_LETTERS))))]
    return {**{cell: mark for cell, mark in fixed.items() if cell in count}, **dict(zip(others, marks, strict=False))}


def explained(matrix: Matrix, cell: Cell) -> str:
    """A symbol's meaning."""
    if not cell.partly:
        return "nothing" if not cell.some else format_ports(matrix, cell.some)
    most = f"{format_ports(matrix, cell.some)}, not for every pair"
    return f"{most}; {format_ports(matrix, cell.every)} for every pair" if cell.every else most


def table(matrix: Matrix, width: int) -> Iterator[str]:
    """The first form that is not wider than `width`: ports in the cells, letters, or a list."""
    rows = names(matrix.groups)
    count = range(len(rows))
    cells = [[matrix.cell(source, destination) for destination in count] for source in count]
    words = list(_in_words(rows, [[format_cell(matrix, cell) if cell else "" for cell in row] for row in cells]))
    if max(map(len, words)) <= width:
        yield from words
        if any(cell and cell.partly for row in cells for cell in row):
            yield f"\n{PARTLY}  not for every pair of pods"
        return
    marks = symbols(matrix)
    squares = list(_in_letters(rows, [[marks[cell] if cell else "" for cell in row] for row in cells]))
    if max(map(len, squares)) > width:
        yield from listing(matrix, width)
        return
    yield from (*squares, "")
    longest = max(map(len, marks.values()))
    for cell, mark in marks.items():
        yield from wrap(f"{mark:{longest}}  {explained(matrix, cell)}", width, subsequent_indent=" " * (longest + 2))


def _in_words(rows: Sequence[str], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """A column is as wide as its widest cell."""
    widths = [max(len(str(index)), *map(len, column)) for index, column in enumerate(zip(*cells, strict=True), 1)]
    heads = _heads(rows)
    numbers = [str(index).ljust(width) for index, width in enumerate(widths, 1)]
    yield "  ".join([_CORNER.ljust(len(heads[0])), *numbers]).rstrip()
    for head, row in zip(heads, cells, strict=True):
        yield "  ".join([head, *(cell.ljust(width) for cell, width in zip(row, widths, strict=True))]).rstrip()


def _in_letters(rows: Sequence[str], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Narrow columns, their numbers written downwards, a gap after every fifth."""
    heads = _heads(rows)
    width = max((len(cell) for row in cells for cell in row), default=1)
    numbers = [str(index).rjust(len(str(len(rows)))) for index in range(1, len(rows) + 1)]
    for digits in zip(*numbers, strict=True):
        yield _spaced("", len(heads[0]), digits, width)
    for head, row in zip(heads, cells, strict=True):
        yield _spaced(head, len(head), row, width)


def _spaced(head: str, longest: int, cells: Sequence[str], width: int) -> str:
    fives = [" ".join(cell.rjust(width) for cell in cells[start : start + 5]) for start in range(0, len(cells), 5)]
    return f"{head:{longest}}  {'  '.join(fives)}".rstrip()


def _heads(rows: Sequence[str]) -> list[str]:
    """` 1 shop/web`, all of one length."""
    digits, longest = len(str(len(rows))), max(len(_CORNER), *map(len, rows))
    return [f"{index:{digits}} {name:{longest}}" for index, name in enumerate(rows, 1)]


def listing(matrix: Matrix, width: int) -> Iterator[str]:
    """A paragraph for the sources that get the same: what, and where. Where they get nothing is not said."""
    rows = names(matrix.groups)
    alike: dict[tuple[tuple[Cell, tuple[str, ...]], ...], list[str]] = {}
    for source, name in enumerate(rows):
        where: dict[Cell, list[str]] = {}
        for destination, other in enumerate(rows):
            cell = matrix.cell(source, destination)
            if cell is not None and cell.some:
                where.setdefault(cell, []).append(other)
        alike.setdefault(tuple((cell, tuple(others)) for cell, others in where.items()), []).append(name)
    for content, sources in alike.items():
        yield from _wrapped(", ".join(sources) + ("" if content else ": nothing"), width, "")
        for cell, others in content:
            yield from _wrapped(f"{format_cell(matrix, cell)} → {', '.join(others)}", width, "  ")


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def as_csv(matrix: Matrix) -> Iterator[str]:
    """`from,to,ports,partly`: the pairs that get anything."""
    called = dict(zip(matrix.groups, names(matrix.groups), strict=True))
    yield csv_line("from", "to", "ports", "partly")
    for source, destination, cell in matrix.edges():
        if cell.some:
            partly = "true" if cell.partly else "false"
            yield csv_line(called[source], called[destination], format_ports(matrix, cell.some), partly)


def csv_line(*cells: str) -> str:
    """One line, quoted where it must be."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
