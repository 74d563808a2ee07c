"""A node's blocks of IP pools, as AddressBlocks in any store: claimed by create, given back by delete. Called by the agent.

Two nodes never have one block, whatever their order of steps: a block is named by its network, and only created if none exists.
Blocks of several sizes can overlap; so whoever has created one looks once more, and withdraws if it sees such another. Of two
that are made at once at least the later one is seen by its maker, and no address of it was given to a pod before.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import suppress

from percale.errors import AddressRefused, Conflict, NetworkFull, NotFound
from percale.ipam.ip_pools import Pool, free_blocks
from percale.ipam.subnet_plan import first_overlap
from percale.model.addresses import IPNetwork
from percale.model.ip_pool import AddressBlock, make_block
from percale.store.protocol import Store

_ATTEMPTS = 20
"""Lost races in one pool before its end is told: another ADD will try again."""


async def claim_block(
    store: Store, pool: Pool, node: str, *, held: Container[IPNetwork] = (), subnets: Iterable[IPNetwork] = ()
) -> IPNetwork:
    """A free block of the pool, this node's from now on. `held` are its blocks, `subnets` nodes', in which none may be.

    A block that is this node's and not held was being claimed when the agent ended: that claim is finished.

    Raises NetworkFull, StoreUnavailable.
    """
    blocks = await store.list(AddressBlock)
    taken = [*subnets, *(each.network for each in blocks if each.spec.node != node or each.network in held)]
    for number, network in enumerate(free_blocks(pool, taken, node)):
        if number == _ATTEMPTS:
            break
        if await _create(store, network, node):
            return network
    raise NetworkFull(
        f"IP pool {pool.name} has no free block of /{pool.block_size}",
        where=f"node {node}",
        hint="add a pool, or look with `percale ipam check` for blocks of nodes that are gone",
    )


async def claim_given(store: Store, network: IPNetwork, node: str) -> None:
    """This block. Raises AddressRefused if another node has it or a part of it, StoreUnavailable."""
    if await _create(store, network, node):
        return
    for block in await store.list(AddressBlock):
        if first_overlap([network], [block.network]) is not None and block.spec.node != node:
            raise AddressRefused(f"block {block.network} is node {block.spec.node}'s", where=f"node {node}")
    raise AddressRefused(f"block {network} was taken meanwhile", where=f"node {node}", hint="try again")


async def _create(store: Store, network: IPNetwork, node: str) -> bool:
    """Whether it is this node's now."""
    try:
        made = await store.put(make_block(network, node), expect="")
    except Conflict:
        made = make_block(network, node)
    blocks = await store.list(AddressBlock)
    if all(each.key != made.key or each.spec.node != node for each in blocks):
        return False  # another node was first
    if any(each.key != made.key and first_overlap([network], [each.network]) is not None for each in blocks):
        await release_block(store, next(each for each in blocks if each.key == made.key))
        return False
    return True


async def release_block(store: Store, block: AddressBlock) -> None:
    """As it was read: not if it changed meanwhile. Without error if it is gone. Raises Conflict, StoreUnavailable."""
    with suppress(NotFound):
        await store.delete(AddressBlock, block.key, expect=block.metadata.resourceVersion)
