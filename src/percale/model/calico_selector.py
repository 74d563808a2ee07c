"""Calico's label selectors: `rack == "r1" && !has(edge)`. Parsed once; used by BGP peers and pools.

or ─ and ─ not ─┬─ all() │ has(LABEL) │ (…)
                └─ LABEL == "V" │ != │ in {"V", …} │ not in {…} │ contains │ starts with │ ends with
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

Matcher: TypeAlias = Callable[[Mapping[str, str]], bool]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<sign>==|!=|&&|\|\||[!(){},])|(?P<word>[A-Za-z0-9_./-]+)|(?P<end>$))""",
    re.ASCII,
)
_DEEPEST = 50
"""Parentheses and negations in each other."""


def parse_selector(text: str) -> Matcher:
    """Whether labels match. Raises ValueError, which says what was expected where."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._depth = 0
        self._kind, self._token = "", ""
        self._advance()

    def whole(self) -> Matcher:
        found: Matcher = _any if self._kind == "end" else self._or()
        if self._kind != "end":
            raise self._unexpected("&& or ||")
        return found

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._position)
        if match is None or match.lastgroup is None:
            raise ValueError(f"selector: character {self._position + 1} of {self._text!r} belongs to nothing")
        self._kind, self._token, self._position = match.lastgroup, match[match.lastgroup], match.end()

    def _unexpected(self, wanted: str) -> ValueError:
        found = f'"{self._token}"' if self._token else "the end"
        return ValueError(f"selector: expected {wanted} before {found} in {self._text!r}")

    def _accept(self, token: str) -> bool:
        if self._kind != "text" and self._token == token:
            self._advance()
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise self._unexpected(f'"{token}"')

    def _or(self) -> Matcher:
        parts = [self._and()]
        while self._accept("||"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else lambda labels: any(part(labels) for part in parts)

    def _and(self) -> Matcher:
        parts = [self._not()]
        while self._accept("&&"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else lambda labels: all(part(labels) for part in parts)

    def _not(self) -> Matcher:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(f"selector: more than {_DEEPEST} parentheses or negations in each other")
        try:
            if self._accept("!"):
                inner = self._not()
                return lambda labels: not inner(labels)
            if self._accept("("):
                inner = self._or()
                self._expect(")")
                return inner
            return self._term()
        finally:
            self._depth -= 1

    def _term(self) -> Matcher:
        name = self._word("a label, has(…) or all()")
        if name in ("all", "has") and self._accept("("):
            label = self._word("a label") if name == "has" else ""
            self._expect(")")
            return (lambda labels: label in labels) if label else _any
        return self._comparison(name)

    def _comparison(self, label: str) -> Matcher:
        negated = self._token in ("!=", "not")
        if self._accept("==") or self._accept("!="):
            values = frozenset((self._value(),))
        elif self._accept("in") or (self._accept("not") and self._accept("in")):
            values = self._values()
        else:
            return self._part_of_value(label)
        return lambda labels: (labels.get(label) in values) != negated

    def _part_of_value(self, label: str) -> Matcher:
        if self._accept("contains"):
            part = self._value()
            return lambda labels: part in labels.get(label, "") and label in labels
        for word, test in (("starts", str.startswith), ("ends", str.endswith)):
            if self._accept(word):
                self._expect("with")
                part = self._value()
                return lambda labels, test=test: label in labels and test(labels[label], part)  # type: ignore[misc]
        raise self._unexpected("==, !=, in, not in, contains, starts with or ends with")

    def _word(self, wanted: str) -> str:
        if self._kind != "word":
            raise self._unexpected(wanted)
        token = self._token
        self._advance()
        return token

    def _value(self) -> str:
        if self._kind != "text":
            raise self._unexpected("a text in quotes")
        token = self._token
        self._advance()
        return token[1:-1]

    def _values(self) -> frozenset[str]:
        self._expect("{")
        found: set[str] = set()
        while not self._accept("}"):
            if found:
                self._expect(",")
            found.add(self._value())
        return frozenset(found)


def _any(_labels: Mapping[str, str]) -> bool:
    return True
