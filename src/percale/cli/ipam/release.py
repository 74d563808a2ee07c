"""`percale ipam release`: blocks of nodes that are gone are anybody's again."""

from __future__ import annotations

from functools import partial

import click

from percale.cli.ipam.world import read_world
from percale.cli.store_option import ANY_STORE, store_option, with_store
from percale.errors import BadInput
from percale.ipam.address_blocks import release_block
from percale.store.protocol import Store


@click.command(short_help="Give back blocks of nodes that are gone.")
@click.argument("blocks", metavar="CIDR…", nargs=-1, required=True)
@store_option(ANY_STORE)
def release(*, blocks: tuple[str, ...], address: str) -> None:
    """Give back these blocks, as `percale ipam check` names them. Nothing is, if one of them is in use or its node is there.

    A node that is there gives back by itself what it does not use.
    """
    for block in with_store(address, partial(_release, blocks)):
        click.echo(f"gave back {block}")


async def _release(cidrs: tuple[str, ...], store: Store) -> tuple[str, ...]:
    world = await read_world(store)
    known = {str(block.network): block for block in world.blocks}
    used = world.pods_by_address()
    for cidr in cidrs:
        block = known.get(cidr)
        if block is None:
            raise BadInput(f"there is no block {cidr}", hint="percale ipam show --show-blocks")
        if block.spec.node in world.nodes:
            raise BadInput(f"block {cidr} is of node {block.spec.node}, which is there")
        if (user := next((address for address in used if address in block.network), None)) is not None:
            raise BadInput(f"pod {used[user][0].key} has {user} of block {cidr}", hint="delete the pod before")
    for cidr in cidrs:
        await release_block(store, known[cidr])
    return cidrs
