"""Acquires this node's subnet lease and maintains it.

    underlay ─▶ UnderlayMonitor ─▶ LocalNode ─▶ on_move (device, peers, MTU)
                                       └──────▶ the lease's spec, written once the store is reachable

`own_networking.py` acquires the lease, `node_network.py` runs the tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from msgspec.structs import replace

from percale.agent.context import AgentContext
from percale.agent.informer import retry_until_available
from percale.agent.network.underlay import UNDERLAY, UnderlayMonitor
from percale.agent.state import NodeState
from percale.backend.interface_selection import UnderlayAddress, local_node
from percale.backend.protocol import Backend, LocalNode, lease_spec
from percale.errors import AddressRefused, BadConfig, StoreUnavailable
from percale.ipam.subnet_lease import Claimant, HeldLease, acquire, still_held
from percale.ipam.subnet_plan import from_pod_cidrs
from percale.model.addresses import IPNetwork
from percale.model.meta import ObjectKey
from percale.model.netconf import NetworkConfig
from percale.model.node import Node
from percale.model.subnet_lease import NodeSubnets, SubnetLeaseSpec
from percale.store.protocol import Store
from percale.store.registry import server_urls


async def acquire_subnets(
    context: AgentContext, network: NetworkConfig, backend: Backend, state: NodeState
) -> SubnetManager:
    """Wait for an interface and for the store, then acquire a lease; of a store that is away, the one of the previous run.

    Raises BadConfig, AddressRefused, NetworkFull.
    """
    name = context.config.node
    underlay = UnderlayMonitor(context.config, network, context.reconciler, context.problems)
    address = await underlay.select()

    claimant = Claimant(
        name,
        state.machine,
        tuple(found.address for found in address.families.values()),
        lambda subnets: _checked_spec(backend, local_node(name, address, subnets, state.macs, network.networks)),
        previous=state.subnets,
        at_own_place=bool(server_urls(context.config.store)),
    )

    async def attempt() -> HeldLease:
        try:
            return await claim(context.store, network, claimant)
        except StoreUnavailable:
            if not context.informer.restored or (held := still_held(context.store, network, claimant)) is None:
                raise
            return held

    lease = await retry_until_available(attempt, context.problems)
    subnets = lease.lease.spec.subnets
    state.save_subnets(subnets)
    manager = SubnetManager(context, backend, underlay, address, lease, macs=state.macs, networks=network.networks)
    if lease.lease.metadata.resourceVersion is None:
        context.log.info("subnet kept, not confirmed by the store yet", subnet=subnets)
        manager.lease_lost()
    else:
        context.log.info("subnet claimed", subnet=subnets, lease=lease.lease.metadata.name)
    return manager


async def claim(store: Store, network: NetworkConfig, claimant: Claimant) -> HeldLease:
    """Acquire the Node's podCIDRs, or any subnet if it has none.

    Raises BadConfig, AddressRefused, NetworkFull, and StoreUnavailable where another attempt may succeed.
    """
    node = await store.get(Node, ObjectKey(None, claimant.node))
    cidrs = [str(cidr) for cidr in node.pod_cidrs] if node is not None else []
    given = from_pod_cidrs(network, claimant.node, cidrs) if cidrs else None
    try:
        return await acquire(store, network, replace(claimant, pod_cidrs=given))
    except AddressRefused as error:
        if given is not None:
            raise
        raise StoreUnavailable(error.what, where=error.where) from error  # a podCIDR, or another node, came first


class SubnetManager:
    """Run `follow_underlay`, `publish` and `renew` as tasks."""

    def __init__(
        self,
        context: AgentContext,
        backend: Backend,
        underlay: UnderlayMonitor,
        address: UnderlayAddress,
        lease: HeldLease,
        *,
        macs: Mapping[str, str],
        networks: tuple[IPNetwork, ...],
    ) -> None:
        self.lease = lease
        self.local = local_node(context.config.node, address, self.subnets, macs, networks)
        self._backend = backend
        self._underlay, self._address = underlay, address
        self._problems, self._log = context.problems, context.log
        self._lease_outdated = asyncio.Event()
        self._lease_outdated.set()  # it may be another backend's
        self._lease_deleted = False

    @property
    def subnets(self) -> NodeSubnets:
        """The subnets of the held lease."""
        return self.lease.lease.spec.subnets

    async def follow_underlay(self, on_move: Callable[[LocalNode], Awaitable[None]]) -> None:
        """Select again after every underlay change; `on_move` gets the updated node."""
        while True:
            address = await self._underlay.select(self._address)
            local = local_node(self.local.name, address, self.subnets, self.local.macs, self.local.networks)
            try:
                self._backend.check(local)
            except BadConfig as error:
                self._problems.raise_(UNDERLAY, error)
                continue
            self._address, self.local = address, local
            self._log.info(
                "node moved",
                interface=local.interface.name,
                address=" ".join(map(str, local.public_ips)),
                mtu=local.interface.mtu,
            )
            self._lease_outdated.set()
            await on_move(local)

    def lease_lost(self) -> None:
        """The store lacks this node's lease, or may lack it: write it again."""
        self._lease_deleted = True
        self._lease_outdated.set()

    def republish(self) -> None:
        """What the backend says of this node has changed."""
        self._lease_outdated.set()

    async def publish(self) -> None:
        """Write changes of the lease to the store. Raises AddressRefused if another node holds the subnet now."""
        while True:
            await self._lease_outdated.wait()
            self._lease_outdated.clear()
            await retry_until_available(self._put, self._problems)

    async def _put(self) -> None:
        if self._lease_deleted:
            await self.lease.renew()
            self._lease_deleted = False
        spec = _checked_spec(self._backend, self.local)
        await self.lease.update(spec, self._backend.other_backend(self.local))

    async def renew(self) -> None:
        """Renew the lease before it expires."""
        await self.lease.keep_renewed(on_problem=lambda error: self._problems.raise_("lease", error))


def _checked_spec(backend: Backend, local: LocalNode) -> SubnetLeaseSpec:
    """Raises BadConfig: before anything is written."""
    backend.check(local)
    return lease_spec(backend, local)
