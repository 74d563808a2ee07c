"""How objects are named on a command line: `pods`, `pod a b`, `pod/a svc/b`. Used by the lab's verbs, `get` and `delete`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

import click

from percale.cli.options import namespace_option


class Choice(NamedTuple):
    """Which objects of a kind a command means to change."""

    namespace: str | None
    everywhere: bool
    selector: str | None
    everything: bool

    def of(self, words: Sequence[str]) -> dict[str, Any]:
        """The fields of a request: by name, or all of a kind where that is said. Raises UsageError."""
        wanted = wanted_objects(words)
        named = any(each["names"] for each in wanted)
        if not named and not self.everything and not self.selector:  # `-l "$NOTHING"` means nothing
            raise click.UsageError("name the objects, or say which of the kind: --all or -l SELECTOR")
        if named and (self.everything or self.selector):
            raise click.UsageError("either names, or --all or -l SELECTOR")
        if named and self.everywhere:
            raise click.UsageError("-A goes with --all or -l SELECTOR; a name is of one namespace: -n NS")
        return {
            "wanted": wanted,
            "namespace": self.namespace,
            "everywhere": self.everywhere,
            "selector": self.selector or "",
        }


def choice_options(command: Callable[..., int]) -> Callable[..., int]:
    """`-n`, `-A`, `-l` and `--all`, as one argument `choice`."""

    @wraps(command)
    def with_choice(
        *, namespace: str | None, everywhere: bool, selector: str | None, everything: bool, **others: Any
    ) -> int:
        return command(choice=Choice(namespace, everywhere, selector, everything), **others)

    chosen = click.option("--all", "everything", is_flag=True, help="All objects of KIND.")(with_choice)
    chosen = click.option(
        "-l", "--selector", metavar="SELECTOR", help="Objects of KIND with these labels: app=web,tier!=front,!old."
    )(chosen)
    chosen = click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="Of all namespaces.")(chosen)
    return namespace_option(chosen)


def require_one_way(words: Sequence[str], files: Sequence[str], choice: Choice) -> None:
    """Of `delete`. Raises UsageError."""
    if bool(words) == bool(files):
        raise click.UsageError("name what to delete: KIND NAME, KIND/NAME, KIND --all, or -f FILE")
    if files and (choice.everything or choice.selector or choice.everywhere):
        raise click.UsageError("-f names its objects: --all, -l and -A go with KIND")


def wanted_objects(words: Sequence[str]) -> list[dict[str, Any]]:
    """`pods`, `pods,svc`, `pod a b` and `pod/a svc/b` as kinds with names; a kind without names means all of it."""
    if not any("/" in word for word in words):
        return [{"kind": kind, "names": list(words[1:])} for kind in words[0].split(",")]
    names: dict[str, list[str]] = {}
    for kind, name in _names(words):
        if "/" in name:
            namespace, _, bare = name.partition("/")
            raise click.UsageError(f"{name} is no name of an object; write: {kind} {bare} -n {namespace}")
        names.setdefault(kind, []).append(name)
    return [{"kind": kind, "names": each} for kind, each in names.items()]


def _names(words: Sequence[str]) -> list[tuple[str, str]]:
    """`pod a b` and `pod/a pod/b` alike as (kind, name) pairs."""
    if all("/" in word for word in words):
        return [(kind, name) for kind, _, name in (word.partition("/") for word in words)]
    kind, *names = words
    if not names or "/" in kind:
        raise click.UsageError("name the object: KIND NAME or KIND/NAME")
    return [(kind, name) for name in names]
