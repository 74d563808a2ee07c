"""What the verbs of `percale lab` share: the options --lab and -n."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def lab_option(command: F) -> F:
    """`--lab NAME`."""
    return click.option("--lab", default="lab", metavar="NAME", help="Which lab (default: lab).")(command)


def namespace_option(command: F) -> F:
    """`-n NAMESPACE`."""
    return click.option("-n", "--namespace", metavar="NS", help="The objects' namespace (default: default).")(command)
