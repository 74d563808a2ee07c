"""Has somebody touched a table of ours while no agent ran? Pure; `spelling` writes the mark, `nftables` reads it back.

The kernel numbers a new table's chains, rules, sets and counters from 1 on and never gives a number twice. So whatever was
removed leaves a gap, except at the end, and that is found by counting: a table's comment says how many parts its text has.
What somebody added (a rule that traces, say) is neither, and stays; a rule that was replaced in place keeps its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from percale.render.objects import Ruleset

_QUOTED = re.compile(r'"[^"\n]*"')
_NO_RULE = re.compile(r"(type|policy|comment|flags|devices?)\b")


def mark(ruleset: Ruleset) -> str:
    """The table's comment: the text's digest and the number of its parts."""
    return f"{ruleset.digest} {sum(1 for _ in _parts(ruleset.text))}"


def verify_fingerprint(comment: str, handles: Mapping[int, bool]) -> str:
    """The digest in a table's comment; "" when the table is not what was loaded.

    `handles` are the numbers of all its parts, False for those without a name in the text: sets within rules.
    """
    digest, _, parts = comment.partition(" ")
    complete = parts.isdecimal() and sum(handles.values()) >= int(parts)
    return digest if complete and sorted(handles) == list(range(1, len(handles) + 1)) else ""


def _parts(text: str) -> Iterator[str]:
    """The chains with their rules, the sets and the counters of a table's text; sets within rules have no name to count."""
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
    """The same without the sets within rules, which may go over several lines."""
    before = ""
    while before != body:
        before, body = body, re.sub(r"\{[^{}]*\}", "", body)
    return body
