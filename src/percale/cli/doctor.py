"""`percale doctor`: what is wrong on a node whose agent runs, or on all nodes of a lab; for each fault what to type."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from percale.cli.checked_host import CheckedHost, checked, print_advice, print_table
from percale.cli.lab_nodes import on_each_node
from percale.cli.lab_option import given_lab
from percale.cli.options import output_option
from percale.counted import counted
from percale.errors import LabError

_WARNINGS = 3
"""The exit code when nothing is worse."""


class DoctorDocument(Struct, frozen=True):
    """By node; the field names are an interface."""

    nodes: Mapping[str, CheckedHost]


@click.command(short_help="What is wrong on this node, or in a lab, and what to type.")
@click.option("--config", metavar="FILE", type=Path, envvar="PERCALE_CONFIG", help="The agent's configuration file.")
@click.option("--lab", metavar="NAME", callback=given_lab, help="A lab: all of its nodes.")
@click.option("--all", "everything", is_flag=True, help="Also the checks that find nothing.")
@output_option
def doctor(*, config: Path | None, lab: str | None, everything: bool, output: str | None) -> int:
    """Check this node and its agent, as root: the host, the agent, its store, peers, tables, limits.

    Nothing is changed. For each fault: what it means, by what it was seen, what to type. Exits with 1 on errors, with
    3 when there are only warnings.
    """
    from percale.cli.json_output import format_json

    nodes = _nodes_of_lab(lab) if lab is not None else _this_node(config)
    if output == "json":
        click.echo(format_json(DoctorDocument(nodes)))
    else:
        for name, host in nodes.items():
            _print(name, host, everything=everything)
    if any(host.error for host in nodes.values()):
        return 1
    return _WARNINGS if any(host.warning for host in nodes.values()) else 0


def _this_node(config: Path | None) -> dict[str, CheckedHost]:
    from percale.agent.config import loader
    from percale.checks.check import findings
    from percale.checks.host import running_host
    from percale.checks.registry import FEATURES, HOST, RUNNING

    host = running_host(loader.load(config, os.environ, {}))
    features = FEATURES if host.status is None or not host.status.ready else ()
    return {host.config.node: checked(list(findings((*RUNNING, *HOST, *features), host)))}


def _nodes_of_lab(lab: str) -> dict[str, CheckedHost]:
    found = {}
    for node, done in on_each_node(lab, "doctor", "-o", "json"):
        try:
            found[node] = msgspec.convert(json.loads(done.stdout)["nodes"][node], CheckedHost)
        except (ValueError, KeyError) as error:
            what = done.stderr.decode().strip() or "no answer"
            raise LabError(f"{node}: {what}", hint=f"percale lab --lab {lab} status") from error
    return found


def _print(name: str, host: CheckedHost, *, everything: bool) -> None:
    wrong = [each for each in host.checks if each.symptom is not None and each.result != "unknown"]
    click.echo(f"{name}: {', '.join(_counts(host))}")
    if everything:
        print_table(host.checks)
    elif wrong:
        print_table(wrong)
    print_advice(wrong)
    if wrong:
        click.echo()


def _counts(host: CheckedHost) -> Iterator[str]:
    if host.error:
        yield counted(host.error, "error")
    if host.warning:
        yield counted(host.warning, "warning")
    yield from (f"{number} {word}" for number, word in ((host.unknown, "unknown"), (host.ok, "ok")) if number)
