"""What the commands here read of a store."""

from __future__ import annotations

from percale.ipam.pool_usage import IpamWorld
from percale.model.ip_pool import AddressBlock, IPPool, IPReservation
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease
from percale.store.protocol import Store


async def read_world(store: Store) -> IpamWorld:
    """A node is there while it has a lease or an object. Raises StoreUnavailable."""
    leases, nodes = await store.list(SubnetLease), await store.list(Node)
    return IpamWorld(
        await store.list(IPPool),
        await store.list(IPReservation),
        await store.list(AddressBlock),
        await store.list(Pod),
        frozenset((*(lease.spec.node for lease in leases), *(node.metadata.name for node in nodes))),
    )
