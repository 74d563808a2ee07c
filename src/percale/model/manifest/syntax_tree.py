"""YAML or JSON documents as nodes with positions; made by `yaml_reader.py` and `json_reader.py`.

`decode.py` converts nodes to plain values for msgspec, and finds the node of an error's field path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from percale.errors import BadManifest
from percale.model.field_path import FieldPath

_GROWTH = 10
"""Maximum number of values per character of text; only aliases of aliases give more than one."""


@dataclass(slots=True, eq=False)
class Node:
    """A scalar, a list or a mapping. Lines count from 1; `start` and `end` are character offsets in the file's text."""

    shape: Literal["scalar", "list", "mapping"]
    start: int
    end: int
    line: int
    column: int
    flow: bool = False
    """In flow style, as JSON; otherwise block style."""
    text: str = ""
    """A scalar's text without its quotes."""
    plain: bool = False
    """An unquoted scalar, which may be another type than text."""
    items: tuple[Node, ...] = ()
    entries: tuple[tuple[Node, Node], ...] = ()

    def get(self, key: str) -> Node | None:
        """A mapping's value."""
        return next((value for name, value in self.entries if name.text == key), None)

    @property
    def value(self) -> Any:
        """A scalar's value."""
        return meaning(self.text) if self.plain else self.text


def plain_value(node: Node, size: int, where: str) -> Any:
    """The document as dicts, lists and scalars. `size` is its text's length. Raises BadManifest."""
    budget = size * _GROWTH + 1000

    def value_of(each: Node) -> Any:
        nonlocal budget
        budget -= 1
        if budget < 0:
            raise BadManifest("its aliases make it too large", where=where, hint="write the values out")
        if each.shape == "scalar":
            return each.value
        if each.shape == "list":
            return [value_of(item) for item in each.items]
        return {key.text: value_of(value) for key, value in each.entries}

    return value_of(node)


def descend(node: Node, path: FieldPath) -> tuple[Node, int]:
    """The node at the path or its deepest existing parent, and the line of its key or item."""
    line = node.line
    for step in path:
        if isinstance(step, int):
            if step >= len(node.items):
                break
            node = node.items[step]
            line = node.line
        else:
            found = next(((key, value) for key, value in node.entries if key.text == step), None)
            if found is None:
                break
            line, node = found[0].line, found[1]
    return node, line


_BOOLS = {
    form: value
    for words, value in ((("true", "yes", "on"), True), (("false", "no", "off"), False))
    for word in words
    for form in (word, word.capitalize(), word.upper())
}
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_INTEGER = re.compile(r"[-+]?(?:0b[01]+|0o?[0-7]+|0x[0-9a-fA-F]+|0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_LONGEST_NUMBER = 100
"""Characters. Python rejects numbers of thousands of digits."""
_INTEGERS = range(-(2**63), 2**64)
"""64-bit integers; larger numbers are floats."""


def meaning(text: str) -> Any:
    """The value of an unquoted scalar as Kubernetes' YAML reader resolves it: times and dates stay text."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text[0] in "+-.0123456789" and len(text) <= _LONGEST_NUMBER:
        if _INTEGER.fullmatch(digits := text.replace("_", "")):
            return _integer(digits)
        if _FLOAT.fullmatch(text):
            number = float(text)
            return number if isfinite(number) else text
    return text


def _integer(text: str) -> int | float:
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567":
        digits = "0o" + digits[1:]
    number = -int(digits, 0) if text.startswith("-") else int(digits, 0)
    return number if number in _INTEGERS else float(number)
