"""What is wrong with an object → errors that name the line, the field, and what to type. Called by `decoding`.

msgspec's refusal says what has the wrong type; the validators' FieldErrors say what else the API server would refuse.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from percale.errors import BadManifest, BadManifests
from percale.model.manifest.paste_errors import first_fault
from percale.model.manifest.schema import allowed_words
from percale.model.manifest.syntax_tree import Node, Steps, descend, spelled
from percale.model.validation.field_errors import FieldError

_PATH = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>[0-9]+)\]|(?P<some>\[\.\.\.\])")
_EXPECTED = re.compile(r"Expected `(?P<types>[^`]*)`(?P<bound> [<>]=? [-0-9.]+)?(?:, got `(?P<got>[^`]*)`)?$")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`$")

_WORDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
}
_LONGEST = 40
"""Characters of a wrong value that an error shows."""


class Written(Struct, frozen=True):
    """An object as it is written: its node in a file's text."""

    node: Node
    text: str
    file: str


def complaint(errors: Sequence[FieldError], refusal: str | None, kind: type[Any], written: Written) -> BadManifest:
    """All that is wrong, in the order of the file. `refusal` is the message of msgspec's ValidationError, if there is one."""
    node = written.node
    placed = [
        (line, _said_by_validator(error, f"{written.file}:{line}"))
        for error in errors
        for line in (descend(node, error.steps + error.below)[1],)
    ]
    if refusal is not None:
        steps, what = _refused(refusal, node)
        if all(error.steps != steps for error in errors):
            placed.append((descend(node, steps)[1], _said_by_msgspec(steps, what, kind, written)))
    return all_of([each for _, each in sorted(placed, key=lambda each: each[0])])


def all_of(faults: Iterable[BadManifest]) -> BadManifest:
    """One error for all of them; there is at least one."""
    single = tuple(part for each in faults for part in (each.faults if isinstance(each, BadManifests) else (each,)))
    if len(single) == 1:
        return single[0]
    return BadManifests("\n".join(" ".join(str(each).split()) for each in single), faults=single)


def _said_by_validator(error: FieldError, where: str) -> BadManifest:
    hint = None
    if isinstance(error.value, str):
        if error.supported:
            hint = _word_hint(error.value, error.supported)
        elif error.steps[-1] == "port" and error.value.isdecimal():
            hint = f"write {error.value} without quotes"
    return BadManifest(str(error), where=where, hint=hint)


def _refused(message: str, node: Node) -> tuple[Steps, str]:
    """The field that msgspec's message means, and what it says of it."""
    match = _PATH.match(message)
    assert match is not None
    what = match["what"]
    steps = _steps(match["path"] or "", node, what)
    missing = _MISSING.match(what)
    return ((*steps, missing["field"]), "missing") if missing is not None else (steps, what)


def _said_by_msgspec(steps: Steps, what: str, kind: type[Any], written: Written) -> BadManifest:
    text, file = written.text, written.file
    culprit, line = descend(written.node, steps)
    said, hint = (what, None) if what == "missing" else _said(what, culprit, allowed_words(kind, steps))
    fault = None
    if not culprit.flow and what.startswith(("Expected", "Invalid enum")):
        near = {culprit.line} if culprit.plain and "`object`" in what else ()
        fault = first_fault(text.splitlines(), min(line, culprit.line), text.count("\n", 0, culprit.end) + 1, near)
    if fault is not None:
        return BadManifest(f"{spelled(steps)}: {fault.what}", where=f"{file}:{fault.line}", hint=fault.hint)
    return BadManifest(f"{spelled(steps)}: {said}" if steps else said, where=f"{file}:{line}", hint=hint)


def _steps(path: str, node: Node, what: str) -> Steps:
    """msgspec does not name a map's key: it is the first one whose value is of the wrong type."""
    steps: Steps = ()
    for match in _STEP.finditer(path):
        if match["field"] is not None:
            steps = (*steps, match["field"])
        elif match["index"] is not None:
            steps = (*steps, int(match["index"]))
        else:
            here, _ = descend(node, steps)
            expected = _EXPECTED.match(what)
            got = expected["got"] if expected else None
            wrong = next((key for key, value in here.entries if _type_name(value) == got), None)
            if wrong is None:
                break
            steps = (*steps, wrong.text)
    return steps


def _said(what: str, culprit: Node, words: tuple[str, ...]) -> tuple[str, str | None]:
    """What is wrong with a value, and what to write instead."""
    got = _shown(culprit)
    if what.startswith("Invalid enum value") and words:
        return f"expected {_listed(words)}, got {got}", _word_hint(culprit.text, words)
    expected = _EXPECTED.match(what)
    if expected is None:
        return what, None
    types = expected["types"].split(" | ")
    names = [_WORDS.get(each, each) for each in types if each != "null"]
    if words:
        names = list(words)
    if bound := expected["bound"]:
        names = [f"{names[0]}{bound}"]
    return f"expected {' or '.join(names)}, got {got}", _type_hint(types, culprit)


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
    if "int" in types and isinstance(meaning, str) and text.isdecimal() and len(text) <= _LONGEST:
        return f"write {text} without quotes"
    if "bool" in types and isinstance(meaning, str) and text.lower() in ("true", "false"):
        return f"write {text.lower()} without quotes"
    return f"write [{_clipped(text)}]" if "array" in types else None


def _word_hint(text: str, words: tuple[str, ...]) -> str | None:
    begun = next((word for word in words if text.casefold().startswith(word.casefold())), None)
    if begun is not None and len(text) > len(begun):
        return f'write {begun}; if the rest is a comment, put " #" before it'
    near = difflib.get_close_matches(text.casefold(), [word.casefold() for word in words], n=1)
    return next((f"write {word}" for word in words if near and word.casefold() == near[0]), None)


def _listed(words: tuple[str, ...]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]


def _shown(node: Node) -> str:
    if node.shape != "scalar":
        return f"a {node.shape}"
    if node.value is None:
        return "nothing"
    return f'"{_clipped(node.text)}"' if isinstance(node.value, str) else node.text


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _type_name(node: Node) -> str:
    """As msgspec calls it."""
    if node.shape != "scalar":
        return "array" if node.shape == "list" else "object"
    return {str: "str", bool: "bool", int: "int", float: "float"}.get(type(node.value), "null")
