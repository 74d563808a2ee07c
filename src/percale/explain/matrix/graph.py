"""A matrix as a picture: dot for graphviz, and an SVG that stands for itself. Called by cli/matrix.py; pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from xml.sax.saxutils import escape

from percale.explain.matrix.matrix import Cell, Matrix
from percale.explain.matrix.text import ALL, NONE, explained, format_cell, names, symbols

_SIZE = 22
"""Of a cell, in pixels."""
_LETTER = 7.3
"""The width of a character of the 12-pixel monospace font, about."""

_STYLE = """
  text { font: 12px ui-monospace, monospace; fill: #24292f }
  .mark { text-anchor: middle }
  .number { text-anchor: middle; font-size: 10px; fill: #57606a }
  rect { stroke: #8c959f; stroke-opacity: .45 }
  .all { fill: #2da44e; fill-opacity: .55 }
  .ports { fill: #218bff; fill-opacity: .35 }
  .partly { fill: #d4a72c; fill-opacity: .45 }
  .none { fill: none }
  .blank { fill: #8c959f; fill-opacity: .25; stroke: none }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .number { fill: #9198a1 } }
"""


def dot(matrix: Matrix) -> Iterator[str]:
    """A node for each group, namespaces as clusters, an arrow for what is allowed."""
    labels = names(matrix.groups)
    yield "digraph matrix {"
    yield '  rankdir=LR; node [shape=box, fontname="monospace"]; edge [fontname="monospace", fontsize=10];'
    numbered = list(enumerate(matrix.groups))
    for namespace, there in groupby(numbered, key=lambda each: each[1].namespace):
        if namespace is None:
            yield from (f"  g{index} [label={_quoted(labels[index])}, style=rounded];" for index, _ in there)
            continue
        yield f"  subgraph {_quoted(f'cluster_{namespace}')} {{"
        yield f"    label={_quoted(namespace)}; style=dashed;"
        yield from (
            f"    g{index} [label={_quoted(labels[index].removeprefix(f'{namespace}/'))}];" for index, _ in there
        )
        yield "  }"
    for source in range(len(labels)):
        for destination in range(len(labels)):
            cell = matrix.cell(source, destination)
            if cell is not None and cell.some:
                style = ", style=dashed" if cell.partly else ""
                yield f"  g{source} -> g{destination} [label={_quoted(format_cell(matrix, cell))}{style}];"
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def svg(matrix: Matrix) -> Iterator[str]:
    """The table as squares, with the whole story of each as its tooltip, and the letters explained below."""
    labels = names(matrix.groups)
    marks = symbols(matrix)
    left = round(_LETTER * (max(map(len, labels), default=0) + 5))
    legend = [(mark, cell, explained(matrix, cell)) for cell, mark in marks.items()]
    top = _SIZE + 8
    below = top + _SIZE * len(labels) + 16
    width = (
        max(left + _SIZE * len(labels), round(_LETTER * (max((len(text) for *_, text in legend), default=0) + 6))) + 8
    )
    height = below + _SIZE * len(legend) + 8
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    yield f"<title>Who reaches whom: rows are sources, columns destinations</title><style>{_STYLE}</style>"
    for index, label in enumerate(labels):
        middle = top + _SIZE * index + 15
        yield f'<text x="4" y="{middle}">{index + 1:>{len(str(len(labels)))}} {escape(label)}</text>'
        yield f'<text class="number" x="{left + _SIZE * index + _SIZE // 2}" y="{top - 6}">{index + 1}</text>'
    for source, row in enumerate(labels):
        for destination, column in enumerate(labels):
            cell = matrix.cell(source, destination)
            what = explained(matrix, cell) if cell else "not a matter of policy"
            x, y = left + _SIZE * destination, top + _SIZE * source
            yield f"<g><title>{escape(f'{row} → {column}: {what}')}</title>{_square(x, y, cell, marks)}</g>"
    for index, (_, cell, text) in enumerate(legend):
        y = below + _SIZE * index
        yield f'{_square(4, y, cell, marks)}<text x="{_SIZE + 12}" y="{y + 15}">{escape(text)}</text>'
    yield "</svg>"


def _square(x: int, y: int, cell: Cell | None, marks: dict[Cell, str]) -> str:
    side = _SIZE - 2
    mark = marks[cell] if cell else ""
    look = "blank" if cell is None else "partly" if cell.partly else {NONE: "none", ALL: "all"}.get(mark, "ports")
    square = f'<rect class="{look}" x="{x}" y="{y}" width="{side}" height="{side}" rx="3"/>'
    written = "" if mark in ("", NONE, ALL) else mark
    return square + (f'<text class="mark" x="{x + side / 2}" y="{y + 15}">{written}</text>' if written else "")
