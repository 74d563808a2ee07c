"""`percale ipam check`: blocks that leak, and pods whose address is not their node's."""

from __future__ import annotations

from collections.abc import Sequence

import click
from msgspec import Struct

from percale.cli.ipam.world import read_world
from percale.cli.json_output import format_json
from percale.cli.store_option import ANY_STORE, store_option, with_store
from percale.ipam.pool_usage import IpamProblem, problems


class IpamCheckDocument(Struct, frozen=True):
    """With -o json."""

    problems: Sequence[IpamProblem]


@click.command(short_help="Blocks that leak, and pods with a wrong address.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@store_option(ANY_STORE)
def check(*, output: str, address: str) -> int:
    """Compare the IP pools, the blocks and the pods of a store, and say what is wrong and what mends it.

    The exit code is 1 if something is.
    """
    found = list(problems(with_store(address, read_world)))
    if output == "json":
        click.echo(format_json(IpamCheckDocument(found)))
        return 1 if found else 0
    for each in found:
        click.echo(each.what + (f"; type: percale ipam release {each.block}" if each.block is not None else ""))
    if not found:
        click.echo("nothing is wrong", err=True)
    return 1 if found else 0
