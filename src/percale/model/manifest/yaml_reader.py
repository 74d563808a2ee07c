"""Parses YAML to nodes, one document after the other. Called by `decode.py`.

The nodes are composed from libyaml's events, not by PyYAML: no object is constructed, a duplicate key is an error, nesting is
limited (PyYAML's composer overflows the C stack), and nodes have positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from percale.errors import BadManifest
from percale.model.manifest.paste_errors import PasteError, first_paste_error, mangled_list_item
from percale.model.manifest.syntax_tree import Node

try:
    from yaml import CSafeLoader as Parser
except ImportError:  # PyYAML built without libyaml: slower, but the same
    from yaml import SafeLoader as Parser  # type: ignore[assignment]

_DEEPEST = 100
_STRING_TAG = "tag:yaml.org,2002:str"
_PLAIN_TAGS = frozenset(
    ("!", *(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null", "map", "seq")))
)


def read_yaml(text: str, file: str) -> Iterator[Node]:
    """The non-empty documents. Raises BadManifest when an invalid one is reached."""
    first = 1
    try:
        composer = _Composer(Parser(text), text, file)
        while True:
            document = composer.next_document()
            if document is None:
                return
            first = document.line
            if not (document.shape == "scalar" and document.value is None):
                yield document
    except yaml.YAMLError as error:
        raise _explained(error, text, first, file) from error


class _Composer:
    """Composes nodes from events."""

    def __init__(self, parser: Any, text: str, file: str) -> None:
        self._parser = parser
        self._text = text
        self._file = file
        self._anchors: dict[str, Node] = {}

    def next_document(self) -> Node | None:
        """None at the end."""
        while True:
            event = self._parser.get_event()
            if event is None or isinstance(event, yaml.StreamEndEvent):
                return None
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors = {}
                return self._node(self._parser.get_event(), 0)

    def _node(self, event: Any, depth: int) -> Node:
        line = event.start_mark.line + 1
        if depth > _DEEPEST:
            raise self._bad(line, "nested too deep", None)
        if isinstance(event, yaml.AliasEvent):
            node = self._anchors.get(str(event.anchor))
            if node is None:
                raise self._bad(line, f"no value is named &{event.anchor}", f'quote "*{event.anchor}" if it is a text')
            return node
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(event, depth)
        else:
            node = self._mapping(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any) -> Node:
        start, end = event.start_mark, event.end_mark
        plain = event.implicit[0]
        if event.tag is not None and event.tag != _STRING_TAG:
            if event.tag not in _PLAIN_TAGS:
                raise self._bad(start.line + 1, f"the tag {event.tag} is not allowed", "leave it out")
            plain = event.tag != "!"
        return Node("scalar", start.index, end.index, start.line + 1, start.column, text=event.value, plain=plain)

    def _list(self, event: Any, depth: int) -> Node:
        self._check_tag(event)
        items = []
        while not isinstance(each := self._parser.get_event(), yaml.SequenceEndEvent):
            items.append(self._node(each, depth + 1))
        start = event.start_mark
        end = _end(event, each, items)
        return Node("list", start.index, end, start.line + 1, start.column, bool(event.flow_style), items=tuple(items))

    def _mapping(self, event: Any, depth: int) -> Node:
        self._check_tag(event)
        entries: dict[str, tuple[Node, Node]] = {}
        merged: list[Node] = []
        last: list[Node] = []
        while not isinstance(each := self._parser.get_event(), yaml.MappingEndEvent):
            key = self._key(self._node(each, depth + 1))
            value = self._node(self._parser.get_event(), depth + 1)
            last = [value if value.end > key.end else key]
            if key.plain and key.text == "<<":
                merged += value.items if value.shape == "list" else (value,)
            elif key.text in entries:
                earlier = entries[key.text][0].line
                raise self._bad(
                    key.line, f'"{key.text}" is there twice (first on line {earlier})', "remove one of them"
                )
            else:
                entries[key.text] = (key, value)
        for other in merged:
            for key, value in other.entries:
                entries.setdefault(key.text, (key, value))
        start = event.start_mark
        end = _end(event, each, last)
        flow = bool(event.flow_style)
        return Node("mapping", start.index, end, start.line + 1, start.column, flow, entries=tuple(entries.values()))

    def _key(self, key: Node) -> Node:
        if key.shape != "scalar":
            raise self._bad(key.line, "a key is a list or a mapping", "write a word before the colon")
        if key.plain and (fault := mangled_list_item(key.line, f"{key.text}:")) is not None:
            # Valid YAML, but a mangled list item: it would silently be an unknown field.
            whole = first_paste_error(self._text.splitlines(), key.line, key.line) or fault
            raise self._bad(key.line, whole.what, whole.hint)
        return key

    def _check_tag(self, event: Any) -> None:
        if event.tag is not None and event.tag not in _PLAIN_TAGS:
            raise self._bad(event.start_mark.line + 1, f"the tag {event.tag} is not allowed", "leave it out")

    def _bad(self, line: int, what: str, hint: str | None) -> BadManifest:
        return BadManifest(what, where=f"{self._file}:{line}", hint=hint)


def _end(start: Any, end: Any, last: list[Node]) -> int:
    """A collection's end; libyaml includes blank lines and comments after a block."""
    index: int = end.end_mark.index if start.flow_style or not last else last[-1].end
    return index


def _explained(error: yaml.YAMLError, text: str, first: int, file: str) -> BadManifest:
    """The error with a hint if its cause is known; otherwise libyaml's message."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        position = getattr(error, "position", None)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
        what = str(getattr(error, "reason", None) or error).splitlines()[0]
        return BadManifest(f"not valid YAML: {what}", where=f"{file}:{line}")
    line = mark.line + 1
    context = getattr(error, "context_mark", None)
    near = {line, *({context.line + 1} if context is not None else ())}
    lines = text.splitlines()
    fault = first_paste_error(lines, first, line, near=near)
    if fault is None:
        problem = getattr(error, "problem", None) or str(error)
        fault = PasteError(min(line, max(1, len(lines))), f"not valid YAML: {problem}", _HINTS.get(problem))
    return BadManifest(fault.what, where=f"{file}:{fault.line}", hint=fault.hint)


_HINTS = {
    "mapping values are not allowed in this context": "check the indentation; quote a text that has a colon in it",
    "did not find expected key": "check the indentation and the brackets of this line and the one before",
    "did not find expected '-' indicator": "check the indentation: all items of a list begin in the same column",
    "found unexpected end of stream": "a quote or a bracket is not closed",
}
