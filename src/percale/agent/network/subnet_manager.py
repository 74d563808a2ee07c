"""Selects the underlay interface and maintains the subnet lease.

    underlay ─▶ select ─▶ LocalNode ─▶ on_move (device, peers, MTU)
                              └──────▶ the lease's spec, written once the store is reachable

While no interface is usable the last selection stays in effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from percale.agent.config.settings import AgentConfig
from percale.agent.informer import retry_until_available
from percale.agent.logging import Log
from percale.agent.problems import Problems
from percale.agent.state import NodeState
from percale.backend.interface_selection import InterfaceOptions, UnderlayAddress, local_node, select_interface
from percale.backend.protocol import Backend, LocalNode, lease_spec
from percale.errors import BadConfig
from percale.ipam.subnet_lease import Claimant, HeldLease, acquire
from percale.ipam.subnet_plan import from_pod_cidrs
from percale.kernel.reconciler.reconciler import Reconciler
from percale.model.ip_family import Family
from percale.model.meta import ObjectKey
from percale.model.netconf import NetworkConfig
from percale.model.node import Node
from percale.model.subnet_lease import NodeSubnets, SubnetLeaseSpec
from percale.store.protocol import Store

UNDERLAY, FAMILY, OVERLAP = "underlay", "underlay family", "underlay overlap"
"""Problem sources: no usable interface; none in one of the two address families; an own address within the pod network."""


class SubnetManager:
    """Call `acquire` first; then run `follow_underlay`, `publish` and `renew` as tasks."""

    local: LocalNode
    lease: HeldLease

    def __init__(
        self,
        config: AgentConfig,
        *,
        network: NetworkConfig,
        backend: Backend,
        store: Store,
        reconciler: Reconciler,
        problems: Problems,
        log: Log,
    ) -> None:
        self._config = config
        self._network = network
        self._backend = backend
        self._store = store
        self._reconciler = reconciler
        self._problems = problems
        self._log = log
        self._underlay_address: UnderlayAddress
        self._interface_options = InterfaceOptions(
            config.iface,
            config.ifaceRegex,
            config.ifaceCanReach,
            {Family.IPV4: config.publicIP, Family.IPV6: config.publicIPv6},
        )
        self._underlay_changed = asyncio.Event()
        self._lease_outdated = asyncio.Event()
        self._lease_deleted = False
        reconciler.on_underlay(lambda _underlay: self._underlay_changed.set())

    @property
    def subnets(self) -> NodeSubnets:
        """The subnets of the held lease."""
        return self.lease.lease.spec.subnets

    async def acquire(self, state: NodeState) -> None:
        """Wait for an interface and for the store, then acquire a lease. Raises BadConfig, AddressRefused, NetworkFull."""
        while (located := self._locate()) is None:
            await self._underlay_changed.wait()
            self._underlay_changed.clear()
        self._underlay_address = located
        self.lease = await retry_until_available(lambda: self._claim(state), self._problems)
        state.save_subnets(self.subnets)
        self.local = local_node(self._config.node, self._underlay_address, self.subnets)
        self._underlay_changed.set()  # changes since are handled by `follow_underlay`
        self._log.info("subnet claimed", subnet=self.subnets, lease=self.lease.lease.metadata.name)

    async def _claim(self, state: NodeState) -> HeldLease:
        node = await self._store.get(Node, ObjectKey(None, self._config.node))
        cidrs = [str(cidr) for cidr in node.pod_cidrs] if node is not None else []
        given = from_pod_cidrs(self._network, self._config.node, cidrs) if cidrs else None
        claimant = Claimant(self._config.node, state.machine, self._spec_for, given, state.subnets)
        return await acquire(self._store, self._network, claimant)

    def _spec_for(self, subnets: NodeSubnets) -> SubnetLeaseSpec:
        local = local_node(self._config.node, self._underlay_address, subnets)
        self._backend.check(local)  # before a lease is acquired
        return lease_spec(self._backend, local)

    def _locate(self) -> UnderlayAddress | None:
        """Select an interface for all of the network's address families, else for one of them."""
        families = tuple(self._network.families)
        missing: BadConfig | None = None
        for attempt in dict.fromkeys((families, *((each,) for each in families))):
            try:
                located = select_interface(self._interface_options, self._reconciler.underlay, attempt)
            except BadConfig as error:
                missing = missing or error
                continue
            self._problems.clear(UNDERLAY)
            if missing is None:
                self._problems.clear(FAMILY)
            else:
                self._problems.raise_(FAMILY, missing)
            self._check_overlap(located)
            return located
        assert missing is not None
        self._problems.raise_(UNDERLAY, missing)
        return None

    def _check_overlap(self, located: UnderlayAddress) -> None:
        """A machine's address within the pod network is ambiguous: packets to it may be treated as a pod's."""
        for _, own in located.families.values():
            for network in self._network.networks:
                if own in network:
                    what = f"the pod network {network} holds this node's own address {own}"
                    self._problems.raise_(OVERLAP, BadConfig(what, hint="choose a Network that no machine has"))
                    return
        self._problems.clear(OVERLAP)

    async def follow_underlay(self, on_move: Callable[[LocalNode], Awaitable[None]]) -> None:
        """Select again after every underlay change; `on_move` gets the updated node."""
        while True:
            await self._underlay_changed.wait()
            self._underlay_changed.clear()
            located = self._locate()
            if located is None or located == self._underlay_address:
                continue
            local = local_node(self._config.node, located, self.subnets)
            try:
                self._backend.check(local)
            except BadConfig as error:
                self._problems.raise_(UNDERLAY, error)
                continue
            self._underlay_address, self.local = located, local
            self._log.info(
                "node moved",
                interface=local.interface.name,
                address=" ".join(map(str, local.public_ips)),
                mtu=local.interface.mtu,
            )
            self._lease_outdated.set()
            await on_move(local)

    def lease_lost(self) -> None:
        """This node's lease was deleted: write it again."""
        self._lease_deleted = True
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
        await self.lease.update(self._spec_for(self.subnets))

    async def renew(self) -> None:
        """Renew the lease before it expires."""
        await self.lease.keep_renewed(on_problem=lambda error: self._problems.raise_("lease", error))
