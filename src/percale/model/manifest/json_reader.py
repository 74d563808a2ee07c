"""Parses JSON to nodes. Called by `decode.py` for invalid files: valid ones are decoded by msgspec, many times faster."""

from __future__ import annotations

import json
import re

from percale.errors import BadManifest
from percale.model.manifest.syntax_tree import Node

_DEEPEST = 100
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null", re.ASCII)


def read_json(text: str, file: str) -> Node:
    """The document. Raises BadManifest."""
    reader = _Reader(text, file)
    node = reader.node(reader.skip(0), 0)
    end = reader.skip(node.end)
    if end != len(text):
        raise reader.bad(end, "there is more after the document", 'put several objects into a "kind": "List"')
    return node


class _Reader:
    """Recursive descent with a depth limit."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._line, self._line_start = 1, 0
        self._seen = 0
        """The offset up to which lines are counted; a file may be one long line."""

    def skip(self, index: int) -> int:
        match = _SPACE.match(self._text, index)
        assert match is not None
        return match.end()

    def bad(self, index: int, what: str, hint: str | None = None) -> BadManifest:
        line = self._text.count("\n", 0, index) + 1
        return BadManifest(what, where=f"{self._file}:{line}", hint=hint)

    def node(self, start: int, depth: int) -> Node:
        """The value at this offset."""
        if depth > _DEEPEST:
            raise self.bad(start, "nested too deep")
        self._advance(start)
        line, column = self._line, start - self._line_start
        first = self._text[start : start + 1]
        if first == "{":
            entries, end = self._mapping(start, depth)
            return Node("mapping", start, end, line, column, flow=True, entries=entries)
        if first == "[":
            items, end = self._list(start, depth)
            return Node("list", start, end, line, column, flow=True, items=items)
        if first == '"':
            value, end = self._string(start)
            return Node("scalar", start, end, line, column, flow=True, text=value)
        match = _NUMBER.match(self._text, start)
        if match is None:
            raise self.bad(start, f"not valid JSON: expected a value{self._instead(start)}")
        return Node("scalar", start, match.end(), line, column, flow=True, text=match.group(), plain=True)

    def _mapping(self, start: int, depth: int) -> tuple[tuple[tuple[Node, Node], ...], int]:
        entries: dict[str, tuple[Node, Node]] = {}
        index = self.skip(start + 1)
        if self._text.startswith("}", index):
            return (), index + 1
        while True:
            if not self._text.startswith('"', index):
                hint = "remove the comma before it" if entries and self._text.startswith("}", index) else None
                raise self.bad(index, f"not valid JSON: expected a key in quotes{self._instead(index)}", hint)
            key = self.node(index, depth + 1)
            if key.text in entries:
                earlier = entries[key.text][0].line
                raise self.bad(index, f'"{key.text}" is there twice (first on line {earlier})', "remove one of them")
            colon = self.skip(key.end)
            if not self._text.startswith(":", colon):
                raise self.bad(key.start, f'no colon after "{key.text}"', f'write `"{key.text}": …`')
            value = self.node(self.skip(colon + 1), depth + 1)
            entries[key.text] = (key, value)
            index, done = self._next(value, "}")
            if done:
                return tuple(entries.values()), index

    def _list(self, start: int, depth: int) -> tuple[tuple[Node, ...], int]:
        items: list[Node] = []
        index = self.skip(start + 1)
        if self._text.startswith("]", index):
            return (), index + 1
        while True:
            items.append(self.node(index, depth + 1))
            index, done = self._next(items[-1], "]")
            if done:
                return tuple(items), index

    def _next(self, before: Node, close: str) -> tuple[int, bool]:
        """The offset after the comma or bracket that follows a value, and whether the collection ends."""
        index = self.skip(before.end)
        if self._text.startswith(close, index):
            return index + 1, True
        if not self._text.startswith(",", index):
            what = f'not valid JSON: expected "," or "{close}"{self._instead(index)}'
            raise self.bad(index, what, f"add it after line {self._text.count(chr(10), 0, before.end) + 1}")
        return self.skip(index + 1), False

    def _string(self, start: int) -> tuple[str, int]:
        try:
            value, end = _DECODER.raw_decode(self._text, start)
            value.encode()
        except UnicodeEncodeError as error:
            raise self.bad(start, "not valid JSON: half of a surrogate pair") from error
        except json.JSONDecodeError as error:
            raise self.bad(
                error.pos, f"not valid JSON: {error.msg[0].lower()}{error.msg[1:].removesuffix(' at')}"
            ) from error
        return value, end

    def _instead(self, index: int) -> str:
        found = self._text[index : index + 1]
        return f', found "{found}"' if found else ", found the end of the file"

    def _advance(self, index: int) -> None:
        """Count lines up to this offset, each once."""
        passed = self._text.count("\n", self._seen, index)
        if passed:
            self._line += passed
            self._line_start = self._text.rindex("\n", self._seen, index) + 1
        self._seen = index
