"""kubectl's JSONPath templates: `-o jsonpath=…` of `get`, and `wait --for=jsonpath=…`. Pure.

    {.items[*].metadata.name}                                   fields, indexes, slices, unions, `..`, filters
    {range .items[?(@.status.phase=="Running")]}{.metadata.name}{"\\n"}{end}

As in kubectl, text outside braces stands for itself, several values of one pair of braces are separated by spaces, and a
field that is not there is nothing, not an error.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from msgspec import Struct

from percale.errors import BadInput


class BadJsonPath(BadInput):
    """A template that cannot be read, or that does not fit the document."""


class Field(Struct, frozen=True):
    """`.name`, `['name']`."""

    name: str


class Every(Struct, frozen=True):
    """`[*]`, `.*`: all elements of a list, all values of an object."""


class Below(Struct, frozen=True):
    """`..`: the value itself and all within it."""


class Slice(Struct, frozen=True):
    """`[1]`, `[-1]`, `[0:2]`, `[::2]`."""

    start: int | None
    stop: int | None
    step: int | None
    single: bool


class Filter(Struct, frozen=True):
    """`[?(@.a=="b")]`; without an operator: those that have the field."""

    left: Operand
    compare: str | None = None
    right: Operand | None = None


class Union(Struct, frozen=True):
    """`['a','b']`, `[0,2]`."""

    steps: tuple[Step, ...]


class Path(Struct, frozen=True):
    """From the current value, or with `$` from the document."""

    steps: tuple[Step, ...]
    from_root: bool = False


class Literal(Struct, frozen=True):
    """`"\\n"`, a number, true or false."""

    value: str | int | float | bool


class Range(Struct, frozen=True):
    """`{range PATH}…{end}`: the body for each value."""

    path: Path
    body: tuple[Node, ...]


Step: TypeAlias = Field | Every | Below | Slice | Filter | Union
Operand: TypeAlias = Path | Literal
Node: TypeAlias = Path | Literal | Range

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_NAME = re.compile(r"(?:\\.|[^\s.\[\]{}()\\=!<>,\"'|])+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_OPERATOR = re.compile(r"==|!=|<=|>=|<|>")
_SLICE = re.compile(r"(-?\d+)?(?:(:)(-?\d+)?(?::(-?\d+)?)?)?")
_SHOWN = 300
"""Characters of a template in a message."""
_DEEPEST = 50
"""Ranges and filters in each other."""
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def parse(template: str) -> tuple[Node, ...]:
    """Raises BadJsonPath."""
    return _Parser(template).template()


def render(nodes: Sequence[Node], document: Any) -> str:
    """What the template makes of the document. Raises BadJsonPath for an index beyond a list's end."""
    return "".join(_rendered(nodes, document, document))


def values(nodes: Sequence[Node], document: Any) -> list[Any]:
    """The values of a template that is one path."""
    return [value for node in nodes if isinstance(node, Path) for value in _find(node, document, document)]


def to_text(value: Any) -> str:
    """Texts as they are, everything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _rendered(nodes: Sequence[Node], current: Any, root: Any) -> Iterator[str]:
    for node in nodes:
        match node:
            case Literal(value):
                yield to_text(value)
            case Range(path, body):
                for value in _find(path, current, root):
                    yield from _rendered(body, value, root)
            case Path():
                yield " ".join(map(to_text, _find(node, current, root)))


def _find(path: Path, current: Any, root: Any) -> list[Any]:
    found = [root if path.from_root else current]
    for step in path.steps:
        found = [value for each in found for value in _take(step, each, root)]
    return found


def _take(step: Step, value: Any, root: Any) -> Iterator[Any]:  # noqa: PLR0912 -- a case for each step
    match step:
        case Field(name):
            if isinstance(value, dict) and name in value:
                yield value[name]
        case Every():
            yield from _children(value)
        case Below():
            yield value
            for child in _children(value):
                yield from _take(step, child, root)
        case Slice(single=True, start=int(index)):
            if isinstance(value, list):
                if not -len(value) <= index < len(value):
                    raise BadJsonPath(f"array index out of bounds: index {index}, length {len(value)}")
                yield value[index]
        case Slice(start, stop, by):
            if isinstance(value, list):
                yield from value[start:stop:by]
        case Filter():
            for each in _children(value):
                if _fits(step, each, root):
                    yield each
        case Union(steps):
            for each in steps:
                yield from _take(each, value, root)


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _fits(test: Filter, value: Any, root: Any) -> bool:
    left = _operand(test.left, value, root)
    if test.compare is None or test.right is None:
        return bool(left)
    right = _operand(test.right, value, root)
    try:
        return bool(left) and bool(right) and _COMPARE[test.compare](left[0], right[0])
    except TypeError:  # a text is neither more nor less than a number
        return False


def _operand(operand: Operand, value: Any, root: Any) -> list[Any]:
    return [operand.value] if isinstance(operand, Literal) else _find(operand, value, root)


class _Parser:
    """By descent; `_at` is the position in the template."""

    def __init__(self, template: str) -> None:
        self._text = template
        self._at = 0
        self._depth = 0

    def template(self) -> tuple[Node, ...]:
        nodes = tuple(self._nodes(inside_range=False))
        assert self._at == len(self._text)
        return nodes

    def _nodes(self, *, inside_range: bool) -> Iterator[Node]:
        while self._at < len(self._text):
            if self._text[self._at] != "{":
                end = self._text.find("{", self._at)
                end = len(self._text) if end < 0 else end
                yield Literal(self._text[self._at : end])
                self._at = end
                continue
            self._at += 1
            self._skip_blanks()
            if self._takes_word("end"):
                self._expect("}")
                if not inside_range:
                    raise self._error("an {end} without {range}")
                return
            if self._takes_word("range"):
                path = self._path()
                self._expect("}")
                with self._deeper():
                    yield Range(path, tuple(self._nodes(inside_range=True)))
            else:
                yield from self._expressions()
        if inside_range:
            raise self._error("a {range} without {end}")

    def _expressions(self) -> Iterator[Node]:
        """What stands between two braces."""
        while True:
            self._skip_blanks()
            if self._takes("}"):
                return
            if self._at == len(self._text):
                raise self._error("'}' is missing")
            yield self._operand()

    def _operand(self) -> Operand:
        self._skip_blanks()
        if self._peek() in ("'", '"'):
            return Literal(self._quoted())
        if (number := _NUMBER.match(self._text, self._at)) is not None:
            self._at = number.end()
            return Literal(json.loads(number[0]))
        for word in ("true", "false"):
            if self._takes_word(word):
                return Literal(word == "true")
        return self._path()

    def _path(self) -> Path:
        self._skip_blanks()
        begin = self._at
        from_root = self._takes("$")
        if not from_root:
            self._takes("@")
        steps: list[Step] = []
        while (step := self._step(first=self._at == begin)) is not None:
            steps += step
        if self._at == begin:
            raise self._error(f"{self._text[self._at : self._at + 10]!r} is not a path, such as .metadata.name")
        return Path(tuple(steps), from_root)

    def _step(self, *, first: bool) -> list[Step] | None:
        if self._takes(".."):
            return [Below()] if self._peek() == "[" else [Below(), self._name()]
        if self._takes("."):
            return [] if self._peek() in ("}", "[", " ", ")") else [self._name()]
        if self._takes("["):
            return [self._brackets()]
        return [self._name()] if first and _NAME.match(self._text, self._at) else None

    def _name(self) -> Step:
        if self._takes("*"):
            return Every()
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self._error("a field's name is missing after '.'")
        self._at = found.end()
        return Field(re.sub(r"\\(.)", r"\1", found[0]))

    def _brackets(self) -> Step:
        self._skip_blanks()
        if self._takes("?("):
            step: Step = self._filter()
            self._expect("]")
            return step
        members = [self._member()]
        while self._takes(","):
            members.append(self._member())
        self._expect("]")
        return members[0] if len(members) == 1 else Union(tuple(members))

    def _member(self) -> Step:
        self._skip_blanks()
        if self._takes("*"):
            return Every()
        if self._peek() in ("'", '"'):
            return Field(self._quoted())
        found = _SLICE.match(self._text, self._at)
        if found is None or not found[0]:
            raise self._error("brackets take an index, a slice, '*', a quoted name or ?(…)")
        self._at = found.end()
        start, colon, stop, step = found.groups()
        if step is not None and int(step) <= 0:
            raise self._error("a slice's step is more than 0")
        return Slice(_integer(start), _integer(stop), _integer(step), single=colon is None)

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._error(f"more than {_DEEPEST} ranges or filters in each other")
        yield
        self._depth -= 1

    def _filter(self) -> Filter:
        with self._deeper():
            return self._comparison()

    def _comparison(self) -> Filter:
        left = self._operand()
        self._skip_blanks()
        found = _OPERATOR.match(self._text, self._at)
        if found is None:
            self._expect(")")
            return Filter(left)
        self._at = found.end()
        right = self._operand()
        self._expect(")")
        return Filter(left, found[0], right)

    def _quoted(self) -> str:
        quote, text = self._text[self._at], []
        self._at += 1
        while not self._takes(quote):
            if self._at >= len(self._text):
                raise self._error("a quoted text does not end")
            letter = self._text[self._at]
            self._at += 1
            if letter == "\\" and self._at < len(self._text):
                letter = _ESCAPES.get(self._text[self._at], self._text[self._at])
                self._at += 1
            text.append(letter)
        return "".join(text)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _takes(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _takes_word(self, word: str) -> bool:
        after = self._text[self._at + len(word) : self._at + len(word) + 1]
        return (after in ("}", " ", ")", "")) and self._takes(word)

    def _expect(self, text: str) -> None:
        self._skip_blanks()
        if not self._takes(text):
            raise self._error(f"{text!r} is missing")

    def _skip_blanks(self) -> None:
        while self._peek().isspace():
            self._at += 1

    def _error(self, what: str) -> BadJsonPath:
        shown = self._text if len(self._text) <= _SHOWN else f"{self._text[:_SHOWN]}…"
        return BadJsonPath(f"jsonpath {shown!r}, character {self._at + 1}: {what}")


def _integer(text: str | None) -> int | None:
    return None if text is None else int(text)
