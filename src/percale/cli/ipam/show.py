"""`percale ipam show`: what of the IP pools is in use."""

from __future__ import annotations

from collections.abc import Sequence

import click
from msgspec import Struct

from percale.cli.ipam.world import read_world
from percale.cli.json_output import format_json
from percale.cli.store_option import ANY_STORE, store_option, with_store
from percale.ipam.pool_usage import Usage, usage
from percale.text_columns import table

_HEAD = ("GROUPING", "NAME", "CIDR", "IPS TOTAL", "IN USE", "RESERVED", "FREE")


class IpamShowDocument(Struct, frozen=True):
    """With -o json."""

    usage: Sequence[Usage]


@click.command(short_help="What of the IP pools is in use.")
@click.option("--show-blocks", is_flag=True, help="Each node's blocks, too.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@store_option(ANY_STORE)
def show(*, show_blocks: bool, output: str, address: str) -> int:
    """Show how many addresses of each IP pool pods have, as the pods' objects say, and how many are reserved.

    The name of a block is that of its node. Free are those that are in no block yet, too.
    """
    found = list(usage(with_store(address, read_world), blocks=show_blocks))
    if output == "json":
        click.echo(format_json(IpamShowDocument(found)))
        return 0
    if not found:
        click.echo("no IP pools", err=True)
        return 0
    rows = [
        (each.grouping, each.name, each.cidr, *map(str, (each.total, each.inUse, each.reserved, each.free)))
        for each in found
    ]
    click.echo(table([_HEAD, *rows]))
    return 0
