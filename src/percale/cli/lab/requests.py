"""What the verbs of `percale lab` have in common: how objects are named, and a request to the lab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


def ask_lab(lab: str, verb: str, **arguments: Any) -> dict[str, Any]:
    """The answer of the lab of this name. Raises NoSuchLab, or the error that the lab answers with."""
    from percale.lab.api.client import ask
    from percale.lab.run_dir import locate

    return ask(locate(lab), verb, **arguments)


def get_objects(lab: str, wanted: Sequence[dict[str, Any]], namespace: str | None, **how: Any) -> dict[str, Any]:
    """As the client's, of the lab of this name."""
    from percale.lab.api import client
    from percale.lab.run_dir import locate

    return client.get_objects(locate(lab), wanted, namespace, **how)


def wanted_objects(words: Sequence[str]) -> list[dict[str, Any]]:
    """`pods`, `pods,svc`, `pod a b` and `pod/a svc/b` as kinds with names; a kind without names means all of it."""
    if not any("/" in word for word in words):
        return [{"kind": kind, "names": list(words[1:])} for kind in words[0].split(",")]
    names: dict[str, list[str]] = {}
    for kind, name in object_names(words):
        names.setdefault(kind, []).append(name)
    return [{"kind": kind, "names": each} for kind, each in names.items()]


def object_names(words: Sequence[str]) -> list[list[str]]:
    """`pod a b` and `pod/a pod/b` alike as [kind, name] pairs."""
    if all("/" in word for word in words):
        return [word.split("/", 1) for word in words]
    kind, *names = words
    if not names or "/" in kind:
        raise click.UsageError("name the object: KIND NAME or KIND/NAME")
    return [[kind, name] for name in names]
