"""Draws measurements of several networks as bars, for the page: in each row the longest one is the largest value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from tests.cluster.testbed.measurements import Measurement

_COLOURS = ("#2b6cb0", "#a0aec0", "#d69e2e")
_LABELS, _BARS, _VALUES, _BAR, _GAP = 380, 360, 110, 14, 12
"""Pixels: widths of the columns, height of a bar, and what is between rows."""


def plot(columns: Mapping[str, Sequence[Measurement]]) -> str:
    """SVG; rows as in the first column."""
    first, *_ = columns.values()
    height = (len(first) + 1) * (len(columns) * _BAR + _GAP) + _GAP
    width = _LABELS + _BARS + _VALUES
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *_legend(list(columns)),
            *_rows(columns, first),
            "</svg>\n",
        )
    )


def _legend(names: Sequence[str]) -> Iterator[str]:
    for number, name in enumerate(names):
        y = _GAP + number * _BAR
        yield f'<rect x="{_LABELS}" y="{y}" width="{_BAR}" height="{_BAR - 2}" fill="{_COLOURS[number]}"/>'
        yield f'<text x="{_LABELS + _BAR + 6}" y="{y + _BAR - 3}">{escape(name)}</text>'


def _rows(columns: Mapping[str, Sequence[Measurement]], first: Sequence[Measurement]) -> Iterator[str]:
    for number, row in enumerate(first, 1):
        top = _GAP + number * (len(columns) * _BAR + _GAP)
        better = ", more is better" if row.more_is_better else ""
        yield f'<text x="{_LABELS - 8}" y="{top + _BAR}" text-anchor="end">{escape(row.what + better)}</text>'
        values = [next((each.value for each in column if each.what == row.what), 0.0) for column in columns.values()]
        for position, value in enumerate(values):
            y, length = top + position * _BAR, _BARS * value / (max(values) or 1)
            yield f'<rect x="{_LABELS}" y="{y}" width="{length:.0f}" height="{_BAR - 2}" fill="{_COLOURS[position]}"/>'
            yield f'<text x="{_LABELS + length + 6:.0f}" y="{y + _BAR - 3}">{value:.4g} {escape(row.unit)}</text>'
