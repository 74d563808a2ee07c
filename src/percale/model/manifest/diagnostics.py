"""The errors of an object with line, field and hint. Called by `decode.py`.

`schema.py` finds wrong types; the validators' FieldErrors are what else the API server would reject.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from percale.errors import BadManifest, BadManifests
from percale.model.addresses import is_network
from percale.model.field_path import FieldPath, format_field_path
from percale.model.manifest.paste_errors import first_paste_error
from percale.model.manifest.schema import MISSING, allowed_words
from percale.model.manifest.syntax_tree import Node, descend
from percale.model.validation.field_errors import FieldError
from percale.suggestion import nearest

_EXPECTED = re.compile(r"Expected `(?P<types>[^`]*)`(?P<bound> [<>]=? [-0-9.]+)?(?:, got `(?P<got>[^`]*)`)?$")

_TYPE_NAMES = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
}
_MAX_SHOWN = 40
"""Maximum characters of a wrong value in an error."""


class SourceText(Struct, frozen=True):
    """An object's node in the text of its file."""

    node: Node
    text: str
    file: str


def diagnose(
    errors: Sequence[FieldError], wrong_types: Iterable[tuple[FieldPath, str]], kind: type[Any], source: SourceText
) -> BadManifest:
    """All errors, in the order of the file. `wrong_types` are those of `type_errors`."""
    node, said = source.node, {error.path for error in errors}
    placed = [
        (line, _validator_error(error, f"{source.file}:{line}"))
        for error in errors
        for line in (descend(node, error.path + error.subpath)[1],)
    ]
    placed += [
        (descend(node, path)[1], _type_error(path, what, kind, source))
        for path, what in wrong_types
        if path not in said
    ]
    texts = {str(each): each for _, each in sorted(placed, key=lambda each: each[0])}
    return combined(texts.values())


def combined(faults: Iterable[BadManifest]) -> BadManifest:
    """One error that contains all of these; at least one."""
    single = tuple(part for each in faults for part in each.parts)
    if len(single) == 1:
        return single[0]
    return BadManifests(single)


def _validator_error(error: FieldError, where: str) -> BadManifest:
    hint = None
    if isinstance(error.value, str):
        if error.supported:
            hint = _word_hint(error.value, error.supported)
        elif error.path[-1] == "port" and error.value.isdecimal():
            hint = f"write {error.value} without quotes"
    return BadManifest(str(error), where=where, hint=hint)


def _type_error(path: FieldPath, what: str, kind: type[Any], source: SourceText) -> BadManifest:
    text, file = source.text, source.file
    culprit, line = descend(source.node, path)
    said, hint = (what, None) if what == MISSING else _expectation(path, what, culprit, allowed_words(kind, path))
    fault = None
    if not culprit.flow and what.startswith(("Expected", "Invalid enum")):
        near = {culprit.line} if culprit.plain and "`object`" in what else ()
        fault = first_paste_error(
            text.splitlines(), min(line, culprit.line), text.count("\n", 0, culprit.end) + 1, near
        )
    if fault is not None:
        return BadManifest(f"{format_field_path(path)}: {fault.what}", where=f"{file}:{fault.line}", hint=fault.hint)
    return BadManifest(f"{format_field_path(path)}: {said}" if path else said, where=f"{file}:{line}", hint=hint)


def _expectation(path: FieldPath, what: str, culprit: Node, words: tuple[str, ...]) -> tuple[str, str | None]:
    """What is wrong with a value, and a hint."""
    got = _format_value(culprit)
    if what.startswith("Invalid enum value") and words:
        return f"expected {_join_words(words)}, got {got}", _word_hint(culprit.text, words)
    expected = _EXPECTED.match(what)
    if expected is None:
        return what, None
    types = expected["types"].split(" | ")
    names = [_TYPE_NAMES.get(each, each) for each in types if each != "null"]
    if words:
        names = list(words)
    if bound := expected["bound"]:
        names = [f"{names[0]}{bound}"]
    hint = _word_hint(culprit.text, words) if words else _object_hint(path, culprit) or _type_hint(types, culprit)
    return f"expected {' or '.join(names)}, got {got}", hint


def _object_hint(path: FieldPath, culprit: Node) -> str | None:
    """A network for an ipBlock, a label for a selector."""
    field, text = path[-1] if path else "", culprit.text
    if field == "ipBlock" and is_network(text):
        return f"write {{cidr: {text}}}"
    key, equals, value = text.partition("=")
    if isinstance(field, str) and field.lower().endswith("selector") and key and equals and value:
        return f"write {{matchLabels: {{{key}: {value}}}}}"
    return None


def _type_hint(types: list[str], culprit: Node) -> str | None:
    if culprit.shape == "scalar":
        return _scalar_hint(types, culprit.text, culprit.value)
    if culprit.shape == "mapping" and "array" in types:
        return 'begin each item with "- "'
    return 'remove the "- "' if culprit.shape == "list" and "object" in types else None


def _scalar_hint(types: list[str], text: str, meaning: Any) -> str | None:
    if meaning is None:
        return "write {} if it is empty on purpose" if "object" in types else None
    if "str" in types and not isinstance(meaning, str):
        return f'write "{text}" in quotes'
    if "int" in types and isinstance(meaning, str) and text.isdecimal() and len(text) <= _MAX_SHOWN:
        return f"write {text} without quotes"
    if "bool" in types and isinstance(meaning, str) and text.lower() in ("true", "false"):
        return f"write {text.lower()} without quotes"
    return f"write [{_truncated(text)}]" if "array" in types else None


def _word_hint(text: str, words: tuple[str, ...]) -> str | None:
    begun = next((word for word in words if text.casefold().startswith(word.casefold())), None)
    if begun is not None and len(text) > len(begun):
        return f'write {begun}; if the rest is a comment, put " #" before it'
    found = nearest(text, words)
    return f"write {found}" if found is not None else None


def _join_words(words: tuple[str, ...]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]


def _format_value(node: Node) -> str:
    if node.shape != "scalar":
        return f"a {node.shape}"
    if node.value is None:
        return "nothing"
    return f'"{_truncated(node.text)}"' if isinstance(node.value, str) else node.text


def _truncated(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
