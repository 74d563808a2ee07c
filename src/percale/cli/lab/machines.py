"""`percale lab cut`, `heal`, `add-node`, `remove-node`, `restart-agent`, `migrate`: disturb the network."""

from __future__ import annotations

import json
from typing import Any

import click

from percale.cli.lab.requests import ask_lab
from percale.cli.options import lab_option


@click.command(short_help="Drop all packets between two machines.")
@click.argument("a", metavar="NODE")
@click.argument("b", metavar="NODE")
@lab_option
def cut(a: str, b: str, lab: str) -> int:
    """Drop all packets between two machines, on any path."""
    return _do(lab, "cut", a=a, b=b)


@click.command(short_help="Undo a cut, or all of them.")
@click.argument("names", nargs=-1, metavar="[NODE NODE]")
@lab_option
def heal(names: tuple[str, ...], lab: str) -> int:
    """Undo the cut between two machines; without names, all cuts."""
    if len(names) not in (0, 2):
        raise click.UsageError("name two machines, or none for all cuts")
    return _do(lab, "heal", names=list(names))


@click.command("add-node")
@click.argument("name")
@click.option("--segment", metavar="NAME", help="Where it is plugged in (default: the first segment).")
@click.option("--label", "labels", metavar="K=V", multiple=True)
@lab_option
def add_node(name: str, segment: str | None, labels: tuple[str, ...], lab: str) -> int:
    """One node more, with an agent of its own."""
    if not all("=" in text for text in labels):
        raise click.UsageError("a label is K=V")
    return _do(lab, "add_node", name=name, segment=segment, labels=dict(text.split("=", 1) for text in labels))


@click.command("remove-node", short_help="A node leaves, its pods move.")
@click.argument("name")
@lab_option
def remove_node(name: str, lab: str) -> int:
    """A node leaves: its pods move if a workload owns them, its subnet becomes free."""
    return _do(lab, "remove_node", name=name)


@click.command("restart-agent", short_help="Restart a node's agent.")
@click.argument("node")
@click.option("--kill", is_flag=True, help="By SIGKILL, in the middle of whatever it does.")
@lab_option
def restart_agent(node: str, kill: bool, lab: str) -> int:
    """Restart a node's agent; its pods keep their addresses and connections."""
    return _do(lab, "restart_agent", node=node, kill=kill)


@click.command(short_help="Another backend for all nodes.")
@click.option(
    "--backend",
    required=True,
    metavar="TYPE|JSON",
    help='vxlan, host-gw, …; with options: {"Type": "vxlan", "Port": 4789}.',
)
@lab_option
def migrate(backend: str, lab: str) -> int:
    """Change all nodes to another backend, one after the other; no packet between pods is lost."""
    return _do(lab, "migrate", backend=_backend(backend))


def _backend(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return {"Type": text}
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error.msg}", param_hint="--backend") from error


def _do(lab: str, verb: str, **arguments: Any) -> int:
    click.echo("\n".join(ask_lab(lab, verb, **arguments)["lines"]))
    return 0
