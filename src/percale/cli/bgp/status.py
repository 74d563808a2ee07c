"""`percale bgp status`: the sessions of a node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
from msgspec import Struct

from percale.agent.status import BgpSession, BgpStatus
from percale.cli.bgp.agents import agent_options, bgp_by_node
from percale.cli.json_output import format_json

_HEAD = ("PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO")


class BgpStatusDocument(Struct, frozen=True):
    """With -o json."""

    nodes: Mapping[str, BgpStatus]


@click.command(short_help="Sessions of a node.")
@agent_options
def status(*, node: str | None, config: Path | None, http: str | None, lab: str | None, output: str) -> int:
    """Show the BGP sessions of this node, or of NODE of a lab, or of all its nodes, as `calicoctl node status` does.

    The exit code is 1 while a session is not established.
    """
    found = bgp_by_node(node, config, http, lab)
    if output == "json":
        click.echo(format_json(BgpStatusDocument(found)))
    else:
        for name, each in found.items():
            for line in lines(name, each):
                click.echo(line)
    down = [session for each in found.values() for session in each.sessions if session.state != "up"]
    return 1 if down else 0


def lines(node: str, bgp: BgpStatus) -> Iterator[str]:
    """A table for each address family."""
    for version in (4, 6):
        sessions = [each for each in bgp.sessions if (":" in each.address) == (version == 6)]
        yield f"{node}: IPv{version} BGP status"
        yield from _framed([_HEAD, *map(_row, sessions)]) if sessions else [f"No IPv{version} peers found."]
        yield ""


def _row(session: BgpSession) -> Sequence[str]:
    return (session.address, session.type, session.state, session.since, session.info)


def _framed(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """With calicoctl's frame: scripts read it."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "+".join(("", *("-" * (width + 2) for width in widths), ""))
    yield rule
    for number, row in enumerate(rows):
        yield "".join(("|", *(f" {cell:{width}} |" for cell, width in zip(row, widths, strict=True))))
        if number in (0, len(rows) - 1):
            yield rule
