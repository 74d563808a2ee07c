"""`percale bgp routes`: what BGP has brought to a node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
from msgspec import Struct

from percale.agent.status import BgpRoute
from percale.cli.bgp.agents import agent_options, bgp_by_node
from percale.cli.json_output import format_json
from percale.text_columns import table


class NodeRoutes(Struct, frozen=True):
    """Brought to a node, and addresses of Services that it advertises by themselves."""

    routes: tuple[BgpRoute, ...]
    services: tuple[str, ...]


class BgpRoutesDocument(Struct, frozen=True):
    """With -o json."""

    nodes: Mapping[str, NodeRoutes]


@click.command(short_help="Routes that BGP has brought.")
@agent_options
def routes(*, node: str | None, config: Path | None, http: str | None, lab: str | None, output: str) -> int:
    """Show the routes that BGP has brought to this node, or to NODE of a lab, or to all its nodes.

    They are in the kernel's main table with protocol 112. Addresses of Services are what the node advertises by itself.
    """
    found = bgp_by_node(node, config, http, lab)
    if output == "json":
        wanted = {name: NodeRoutes(each.routes, each.services) for name, each in found.items()}
        click.echo(format_json(BgpRoutesDocument(wanted)))
        return 0
    rows = [(name, each.network, each.via or "", each.dev or "") for name, bgp in found.items() for each in bgp.routes]
    if rows:
        click.echo(table([("NODE", "NETWORK", "VIA", "INTERFACE"), *rows]))
    else:
        click.echo("no routes by BGP", err=True)
    for name, bgp in found.items():
        if bgp.services:
            click.echo(f"{name} advertises {', '.join(bgp.services)}")
    return 0
