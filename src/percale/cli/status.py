"""`percale status`: what this node's agent sees, as tables or JSON."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import click

from percale.suggestion import first_few
from percale.text_columns import table

if TYPE_CHECKING:
    from percale.agent.status import OtherBackend, Peer, Status


@click.command()
@click.option("--config", metavar="FILE", type=Path, envvar="PERCALE_CONFIG", help="The agent's configuration file.")
@click.option("--http", metavar="ADDR", help="Where the agent answers: HOST:PORT or unix:/PATH.")
@click.option(
    "--plan", "plan_file", metavar="FILE", envvar="PERCALE_PLAN", help="An address plan: what it says of addresses."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(config: Path | None, http: str | None, plan_file: str | None, output: str) -> None:
    """Show this node's subnets, backend, peers, pods, and what is wrong."""
    from percale.agent.http import client
    from percale.cli.plan.given_plan import usable_plan
    from percale.cli.plan.name import with_meanings

    plan = usable_plan(plan_file) if plan_file and output == "text" else None
    document = client.fetch(client.address(config, os.environ, http))
    if output == "json":
        click.echo(document.decode())
        return
    for line in lines(client.decode(document), time.time()):
        click.echo(line if plan is None else with_meanings(plan, line))


def lines(status: Status, now: float) -> Iterator[str]:
    """The text form."""
    state = "ready" if status.ready else f"not ready: {'; '.join(status.waitingFor)}"
    yield table(
        [
            ["node", f"{status.node}, {state}"],
            ["agent", f"percale {status.version}, pid {status.pid}, up {_span(now - status.started)}"],
            ["network", ", ".join(status.networks) or "unknown yet"],
            *([f"subnet {each.subnet}", f"{each.used} addresses used, {each.free} free"] for each in status.addresses),
            ["backend", _backend(status)],
            ["interface", f"{status.interface}, {', '.join(status.publicIPs)}" if status.interface else "unknown yet"],
        ]
    )
    yield ""
    yield from _section(
        "PEERS",
        ("NODE", "SUBNETS", "ADDRESSES", "BACKEND", "PATH", "STATE"),
        [
            (
                peer.node,
                ", ".join(peer.subnets),
                ", ".join(peer.publicIPs),
                peer.backend,
                peer.path or ("by others" if peer.reached else "none"),
                _state(peer),
            )
            for peer in status.peers
        ],
    )
    yield from _section(
        "PODS",
        ("POD", "ADDRESSES", "INTERFACE", "CONTAINER"),
        [(pod.pod or "-", ", ".join(pod.addresses), pod.ifname, pod.container[:13]) for pod in status.pods],
    )
    yield from _section(
        "PROBLEMS",
        ("SINCE", "SOURCE", "ERROR"),
        [(f"{_span(now - each.since)} ago", each.source, _one_line(each.error)) for each in status.problems],
    )
    last = status.lastError
    yield (
        f"last error: {_span(now - last.since)} ago, {last.source}: {_one_line(last.error)}"
        if last is not None
        else "last error: none"
    )


def _backend(status: Status) -> str:
    if status.backend == "none":
        return "none: policies only, the network is another plugin's"
    if not status.backend:
        return "unknown yet"
    return f"{status.backend}, pods' MTU {status.mtu}{_other_backend(status.otherBackend)}"


def _other_backend(other: OtherBackend | None) -> str:
    if other is None:
        return ""
    return f"; {other.type} beside it{f', waiting for {first_few(other.waitingFor)}' if other.waitingFor else ''}"


def _state(peer: Peer) -> str:
    return (
        peer.problem
        if not peer.reached and peer.problem
        else f"reached{f', but {peer.problem}' if peer.problem else ''}"
    )


def _section(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"{title} {len(rows)}"
    if rows:
        yield indent(table([heads, *rows]), "  ")
    yield ""


def _one_line(error: str) -> str:
    """A file's errors are one per line."""
    return "; ".join(error.splitlines())


def _span(seconds: float) -> str:
    """`8s`, `12m`, `3h`, `2d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
