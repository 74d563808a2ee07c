"""Options of several commands: where objects come from, which lab, and networks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, get_args

import click

from percale.cli.lab_option import given_lab
from percale.lab.commands import default_lab, lab_words
from percale.model.addresses import IPNetwork, is_network, parse_network
from percale.model.manifest.strictness import Validation

F = TypeVar("F", bound=Callable[..., Any])

_VALIDATE = "percale.validate"


def source_options(command: F) -> F:
    """`-f` or `--lab`."""
    command = validate_option(command)
    command = source_lab_option(command)
    return click.option("-f", "files", metavar="FILE|DIR", multiple=True, help="Manifests; - is stdin.")(command)


def source_lab_option(command: F) -> F:
    """`--lab` of commands that read manifests as well."""
    return click.option(
        "--lab", metavar="NAME", callback=given_lab, help="A lab that runs (without -f: $PERCALE_LAB, else lab)."
    )(command)


def pod_cidr_option(command: F) -> F:
    """`--pod-cidr` of commands whose manifests may have pods without an address."""
    return click.option(
        "--pod-cidr",
        "pods",
        metavar="CIDR,…",
        multiple=True,
        help="The network of pods that have no address yet (default: what lab or manifests say).",
    )(command)


def validate_option(command: F) -> F:
    """`--validate`, as kubectl has it; whoever reads the manifests asks `validation()`."""
    return click.option(
        "--validate",
        type=click.Choice(get_args(Validation)),
        default="strict",
        show_default=True,
        expose_value=False,
        callback=lambda context, _, value: context.meta.__setitem__(_VALIDATE, value),
        help="Unknown fields: an error, a warning, or nothing.",
    )(command)


def validation() -> Validation:
    """What `--validate` of this command says."""
    context = click.get_current_context(silent=True)
    said: Validation = context.meta.get(_VALIDATE, "strict") if context is not None else "strict"
    return said


def networks(texts: Iterable[str], option: str, but: str | None = None) -> tuple[IPNetwork, ...]:
    """What an option for networks says, with commas or several times; `but` is a word that means none."""
    words = [word.strip() for text in texts for word in text.split(",") if word.strip() and word.strip() != but]
    for word in words:
        if not is_network(word):
            raise click.BadParameter(f"{word!r} is not a network, such as 10.0.0.0/16", param_hint=option)
    return tuple(map(parse_network, words))


def source_words(files: Sequence[str], lab: str | None) -> str:
    """What a command that is printed needs at its end to read the same objects."""
    words = f" --validate={validation()}" if validation() != "strict" else ""
    return "".join(f" -f {shlex.quote(each)}" for each in files) + words if lab is None else lab_words(lab)


def lab_of_source(files: Sequence[str], lab: str | None) -> str | None:
    """The lab that the objects come from; None: they come from files."""
    if files and lab is not None:
        raise click.UsageError("either -f or --lab")
    return None if files else lab or default_lab()


def lab_option(command: F) -> F:
    """`--lab NAME`."""
    return click.option(
        "--lab",
        metavar="NAME",
        callback=lambda context, option, value: given_lab(context, option, value) or default_lab(),
        help="Which lab (default: $PERCALE_LAB, else lab).",
    )(command)


def namespace_option(command: F) -> F:
    return click.option("-n", "--namespace", metavar="NS", help="The objects' namespace (default: default).")(command)


def probe_options(timeout: float) -> Callable[[F], F]:
    """`-n`, `-6` and `--timeout` of commands that send something real."""

    def decorate(command: F) -> F:
        command = click.option(
            "--timeout", type=click.FloatRange(min=0), default=timeout, show_default=True, metavar="SECONDS"
        )(command)
        command = click.option("-6", "ipv6", is_flag=True, help="By IPv6, where TO has both.")(command)
        return namespace_option(command)

    return decorate


def output_option(command: F) -> F:
    """`-o json`; without it for people."""
    return click.option("-o", "--output", type=click.Choice(["json"]), help="JSON instead of a table.")(command)
