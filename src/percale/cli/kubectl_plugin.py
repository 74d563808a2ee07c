"""`kubectl percale …`: kubectl starts `kubectl-percale`. The same commands, and the store is the cluster that kubectl means."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from percale.cli import main as percale

_OPTIONS = ("--kubeconfig", "--context")
"""kubectl's, which it leaves to its plugins."""


def main(arguments: Sequence[str] | None = None) -> None:
    """As `percale.cli.main`."""
    rest, given = _split(sys.argv[1:] if arguments is None else arguments)
    store = store_address(given, os.environ)
    if store is not None:
        os.environ["PERCALE_STORE"] = store
    percale.main(rest)


def _split(arguments: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
    """Our arguments, and the values of kubectl's options; what is behind `--` is another program's."""
    rest, given = [], {}
    left = iter(arguments)
    for word in left:
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *left]
        elif name in _OPTIONS:
            given[name] = value if equals else next(left, "")
        else:
            rest.append(word)
    return rest, given


def store_address(given: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    """By kubectl's order: the option, $KUBECONFIG, ~/.kube/config; None: there is no such file.

    Of several files in $KUBECONFIG the first is read that is there: a context's cluster and user are sought in its file.
    """
    option = given.get("--kubeconfig")
    names = [option] if option else environ.get("KUBECONFIG", "").split(os.pathsep)
    paths = [Path(name).expanduser().absolute() for name in names if name] or [Path.home() / ".kube" / "config"]
    path = next((each for each in paths if each.exists()), paths[0] if option else None)
    if path is None:
        return None
    context = given.get("--context")
    return f"kubernetes:{path}{f'?context={quote(context)}' if context else ''}"
