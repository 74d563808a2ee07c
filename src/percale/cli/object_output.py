"""What `get` prints: objects as tables, JSON, YAML, names or by a JSONPath template; with -w again whenever they change.

Of a lab (cli/lab/get.py) or of a store (cli/get.py), whose answers are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import click

from percale.cli.options import namespace_option
from percale.errors import NotFound
from percale.text_columns import columns, table, widths

F = TypeVar("F", bound=Callable[..., Any])

_FORMS = ("wide", "json", "yaml", "name")
_TABLES = (None, "wide")
_TEMPLATE = "jsonpath="

Section = dict[str, Any]
"""Objects of a kind: `head` and `rows` of their table, `objects` and `names`."""


class _Form(click.ParamType[str]):
    """One of `_FORMS`, or a template."""

    name = "form"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> str:
        if value not in _FORMS and not value.startswith(_TEMPLATE):
            self.fail(f"{value!r} is none of {', '.join(_FORMS)}, jsonpath=TEMPLATE", param, context)
        return value


def get_options(command: F) -> F:
    """What is shown, and how."""
    for option in (
        click.option(
            "-w", "--watch", is_flag=True, help="Go on, with a line for each object that changes; Ctrl-C ends it."
        ),
        click.option(
            "-l", "--selector", metavar="SELECTOR", help="Only objects with these labels: app=web,tier!=front,!old."
        ),
        click.option(
            "-o",
            "--output",
            type=_Form(),
            metavar="[wide|json|yaml|name|jsonpath=TEMPLATE]",
            help="Another form than the table.",
        ),
        click.option("-A", "--all-namespaces", is_flag=True, help="Objects of all namespaces."),
        namespace_option,
        click.argument("what", nargs=-1, required=True, metavar="KIND[,KIND…] [NAME…] | KIND/NAME…"),
    ):
        command = option(command)
    return command


def print_objects(
    wanted: Sequence[dict[str, Any]], ask: Callable[[int | None], dict[str, Any]], output: str | None, *, watch: bool
) -> int:
    """Print what `ask` answers; it is given the revision of the last answer, and waits for another one.

    Raises NotFound for named objects that are missing, and BadJsonPath.
    """
    show = _printer(output, single=watch or [len(each["names"]) for each in wanted] == [1])
    answer = ask(None)
    if watch and output not in _TABLES:
        for member in _members(answer, output).values():
            show([member.section])
    elif answer["sections"] or output not in (None, "wide"):
        show(answer["sections"])
    elif not answer["missing"]:
        click.echo(answer["nothing"], err=True)
    if answer["missing"]:
        raise NotFound("; ".join(answer["missing"]))
    if watch:
        _watch(answer, ask, output)
    return 0


def _printer(output: str | None, *, single: bool) -> Callable[[Sequence[Section]], None]:
    """Prints sections of an answer. Raises BadJsonPath for a template that cannot be read."""
    if output in _TABLES:
        return lambda sections: click.echo("\n\n".join(table([each["head"], *each["rows"]]) for each in sections))
    if output == "name":
        return lambda sections: click.echo("\n".join(name for each in sections for name in each["names"]))
    encode = _encoder(output or "")

    def show(sections: Sequence[Section]) -> None:
        objects = [obj for each in sections for obj in each["objects"]]
        if not single:
            click.echo(encode({"apiVersion": "v1", "kind": "List", "items": objects}), nl=False)
        elif objects:
            click.echo(encode(objects[0]), nl=False)

    return show


def _encoder(output: str) -> Callable[[Any], str]:
    if output.startswith(_TEMPLATE):
        from percale.cli import jsonpath

        template = jsonpath.parse(output.removeprefix(_TEMPLATE))
        return lambda document: jsonpath.render(template, document)
    if output == "json":
        from percale.cli.json_output import format_json

        return lambda document: format_json(document) + "\n"
    from percale.model.manifest.yaml_writer import plain_to_yaml

    return plain_to_yaml


def _watch(answer: dict[str, Any], ask: Callable[[int | None], dict[str, Any]], output: str | None) -> None:
    """Print what changes, until the lab ends or the user has seen enough."""
    heads = {tuple(each["head"]): widths([each["head"], *each["rows"]]) for each in answer["sections"]}
    known = _members(answer, output)
    show = _printer(output, single=True)
    while True:
        answer = ask(answer["revision"])
        before, known = known, _members(answer, output)
        gone = [member for key, member in before.items() if key not in known]  # kubectl too shows it as it was
        new = [member for key, member in known.items() if key not in before or before[key].shown != member.shown]
        for member in (*gone, *new):
            head = tuple(member.head)
            if output not in _TABLES:
                show([member.section])
            elif head in heads:
                click.echo("\n".join(columns([member.row], least=heads[head])))
            else:
                heads[head] = widths([member.head, member.row])
                show([member.section])


class _Member(NamedTuple):
    """An object of a section. `shown` is what is seen of it: that an AGE grows is no change."""

    shown: Any
    head: Sequence[str]
    row: Sequence[str]
    section: Section


def _members(answer: dict[str, Any], output: str | None) -> dict[tuple[str, ...], _Member]:
    members: dict[tuple[str, ...], _Member] = {}
    for section in answer["sections"]:
        head = section["head"]
        for name, obj, row in zip(section["names"], section["objects"], section["rows"], strict=True):
            shown = (
                [cell for title, cell in zip(head, row, strict=True) if title != "AGE"] if output in _TABLES else obj
            )
            alone = {"head": head, "rows": [row], "objects": [obj], "names": [name]}
            members[name, obj["metadata"].get("namespace", "")] = _Member(shown, head, row, alone)
    return members
