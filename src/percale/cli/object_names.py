"""How objects are named on a command line: `pods`, `pod a b`, `pod/a svc/b`. Used by the lab's verbs, `get` and `delete`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


def wanted_objects(words: Sequence[str]) -> list[dict[str, Any]]:
    """`pods`, `pods,svc`, `pod a b` and `pod/a svc/b` as kinds with names; a kind without names means all of it."""
    if not any("/" in word for word in words):
        return [{"kind": kind, "names": list(words[1:])} for kind in words[0].split(",")]
    names: dict[str, list[str]] = {}
    for kind, name in object_names(words):
        names.setdefault(kind, []).append(name)
    return [{"kind": kind, "names": each} for kind, each in names.items()]


def object_names(words: Sequence[str]) -> list[tuple[str, str]]:
    """`pod a b` and `pod/a pod/b` alike as (kind, name) pairs."""
    if all("/" in word for word in words):
        return [(kind, name) for kind, _, name in (word.partition("/") for word in words)]
    kind, *names = words
    if not names or "/" in kind:
        raise click.UsageError("name the object: KIND NAME or KIND/NAME")
    return [(kind, name) for name in names]
