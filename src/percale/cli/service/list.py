"""`percale service list`: all Services, each in a line."""

from __future__ import annotations

import click

from percale.cli.json_output import format_json
from percale.cli.object_sources import load_services
from percale.cli.options import source_options
from percale.explain.service_world import NO_NODE
from percale.explain.services.list import HEAD, row
from percale.explain.services.show import view
from percale.text_columns import table


@click.command("list", short_help="Services, each in a line.")
@click.option("-n", "--namespace", metavar="NS", help="Of this namespace only.")
@source_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def list_services(*, namespace: str | None, files: tuple[str, ...], lab: str | None, output: str) -> int:
    """List Services with their addresses, ports, strategies, and how many endpoints are used of how many.

    Used are those that some node uses: the ready ones, else those that still serve while they terminate. What one
    node uses, `percale service show` tells.
    """
    world = load_services(files, lab)
    everywhere = world.table(NO_NODE)
    services = sorted(
        (each for each in world.services.values() if namespace in (None, each.metadata.namespace)),
        key=lambda each: each.key,
    )
    rows = [row(view(each, everywhere, world.behind.get(each.key, ()))) for each in services]
    for problem in everywhere.problems:
        click.echo(f"percale: {problem}", err=True)
    if output == "json":
        click.echo(format_json(rows))
    elif rows:
        click.echo(table([HEAD, *(each.cells for each in rows)]))
    else:
        click.echo(f"no Services{f' in namespace {namespace}' if namespace else ''}", err=True)
    return 0
