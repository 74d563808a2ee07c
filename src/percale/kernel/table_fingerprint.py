"""Detects foreign changes to a table of ours made while the agent was down. Pure; `commands` writes, `static_tables` verifies.

The kernel assigns handles to a new table's chains, rules, sets and counters from 1 on and never reuses one. So a removal
leaves a gap, except at the end, which is found by counting: the table's comment holds the number of parts of its text.
An addition (a tracing rule, say) is neither and stays; a rule that was replaced in place keeps its handle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from percale.render.objects import Ruleset

_QUOTED = re.compile(r'"[^"\n]*"')
_NO_RULE = re.compile(r"(type|policy|comment|flags|devices?)\b")


def fingerprint(ruleset: Ruleset) -> str:
    """The table's comment: the text's digest and the number of its parts."""
    return f"{ruleset.digest} {sum(1 for _ in _parts(ruleset.text))}"


def verify_fingerprint(comment: str, handles: Mapping[int, bool]) -> str:
    """The digest in a table's comment; "" when the table is not as it was loaded.

    `handles` are those of all its parts, False for anonymous sets, which have no name in the text.
    """
    digest, _, parts = comment.partition(" ")
    complete = parts.isdecimal() and sum(handles.values()) >= int(parts)
    return digest if complete and sorted(handles) == list(range(1, len(handles) + 1)) else ""


def _parts(text: str) -> Iterator[str]:
    """The chains with their rules, the sets and the counters of a table's text; anonymous sets are not counted."""
    for block, body in _blocks(_QUOTED.sub('""', text)):
        yield block
        if block.startswith("chain "):
            statements = (statement.strip() for statement in re.split(r"[;\n]", _without_braces(body)))
            yield from (statement for statement in statements if statement and not _NO_RULE.match(statement))


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """`chain guard {` … `}`: the words before the brace, and what is in it."""
    depth = start = 0
    head = ""
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            if depth == 0:
                head = text[start : brace.start()].strip()
                start = brace.end()
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                yield head, text[start : brace.start()]
                start = brace.end()


def _without_braces(body: str) -> str:
    """The same without anonymous sets, which may span several lines."""
    before = ""
    while before != body:
        before, body = body, re.sub(r"\{[^{}]*\}", "", body)
    return body
