"""`percale lab describe` and `logs`: an object with what belongs to it, and what a pod has answered."""

from __future__ import annotations

import click

from percale.cli.lab.requests import ask_lab
from percale.cli.object_names import wanted_objects
from percale.cli.options import lab_option, namespace_option
from percale.errors import NotFound

_PATIENCE = 20.0
"""Seconds until the lab answers although there is no new line."""


@click.command(short_help="Show an object with what belongs to it, and its events.")
@click.argument("what", nargs=-1, required=True, metavar="KIND [NAME…] | KIND/NAME…")
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="Objects of all namespaces.")
@click.option("-l", "--selector", metavar="SELECTOR", help="Only objects with these labels: app=web,tier!=front,!old.")
@lab_option
def describe(
    *, what: tuple[str, ...], namespace: str | None, all_namespaces: bool, selector: str | None, lab: str
) -> int:
    """Describe pods, services, nodes and networkpolicies as kubectl does; other kinds as YAML.

    A pod is shown with the NetworkPolicies that select it, a Service with its endpoints, a node with its pods and agent.
    """
    answer = ask_lab(
        lab,
        "describe",
        wanted=wanted_objects(what),
        namespace=namespace,
        everywhere=all_namespaces,
        selector=selector or "",
    )
    if answer["pages"]:
        click.echo("\n\n\n".join("\n".join(page) for page in answer["pages"]))
    elif not answer["missing"]:
        click.echo(answer["nothing"], err=True)
    if answer["missing"]:
        raise NotFound("; ".join(answer["missing"]))
    return 0


@click.command(short_help="Show what a pod or outside host has answered.")
@click.argument("where", metavar="POD|external/NAME")
@namespace_option
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines; Ctrl-C ends it.")
@click.option("--tail", type=click.IntRange(min=-1), default=-1, metavar="N", help="Only the last N lines.")
@lab_option
def logs(where: str, namespace: str | None, follow: bool, tail: int, lab: str) -> int:
    """Show the requests that the lab has answered for a pod: when, from whom, at which address, and the first line.

    POD is a name, NS/NAME, or deploy/NAME for the first of its pods. The last thousand lines are kept.
    """
    answer = ask_lab(lab, "logs", target=where, namespace=namespace, after=0, patience=0)
    lines = answer["lines"]
    for line in lines[len(lines) - tail :] if 0 <= tail < len(lines) else lines:
        click.echo(line)
    while follow:
        answer = ask_lab(lab, "logs", target=where, namespace=namespace, after=answer["count"], patience=_PATIENCE)
        for line in answer["lines"]:
            click.echo(line)
    return 0
