"""This node's place in the underlay and in the cluster: interface chosen, subnet claimed, both kept up.

    underlay ─▶ choose ─▶ LocalNode ─▶ on_move (device, peers, MTU)
                              └──────▶ the lease's content, put into the store when it answers

An interface that is gone changes nothing: the last place stays, until there is another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from percale.agent.config.settings import AgentConfig
from percale.agent.logging import Log
from percale.agent.problems import Problems
from percale.agent.state import NodeState
from percale.agent.watch import patiently
from percale.backend.interface_selection import Located, Wishes, local_node, locate
from percale.backend.protocol import Backend, LocalNode
from percale.errors import BadConfig
from percale.ipam.subnet_lease import Claimant, HeldLease, acquire
from percale.ipam.subnet_plan import NodeSubnets, from_pod_cidrs, subnets_of
from percale.kernel.reconciler.reconciler import Reconciler
from percale.model.meta import ObjectKey
from percale.model.netconf import NetworkConfig
from percale.model.node import Node
from percale.model.subnet_lease import SubnetLeaseSpec
from percale.store.protocol import Store

UNDERLAY, FAMILY, OVERLAP = "underlay", "underlay family", "underlay overlap"
"""The problems' sources: no place at all, no place in one of the network's two families, a place within the pod network."""


class Standing:
    """`establish` first; then the duties `follow_underlay`, `publish` and `keep`, each for ever."""

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
        self._located: Located
        self._wishes = Wishes(config.iface, config.ifaceRegex, config.ifaceCanReach, config.publicIP, config.publicIPv6)
        self._moved = asyncio.Event()
        self._stale = asyncio.Event()
        self._lost = False
        reconciler.on_underlay(lambda _underlay: self._moved.set())

    @property
    def subnets(self) -> NodeSubnets:
        """What the node has."""
        return subnets_of(self.lease.lease.spec)

    async def establish(self, state: NodeState) -> None:
        """Wait for an interface and for the store; claim. Raises BadConfig, AddressRefused, NetworkFull."""
        while (located := self._locate()) is None:
            await self._moved.wait()
            self._moved.clear()
        self._located = located
        self.lease = await patiently(lambda: self._claim(state), self._problems)
        state.remember(self.subnets)
        self.local = local_node(self._config.node, self._located, self.subnets)
        self._moved.set()  # what happened meanwhile is looked at by `follow_underlay`
        self._log.info("subnet claimed", subnet=self.subnets, lease=self.lease.lease.metadata.name)

    async def _claim(self, state: NodeState) -> HeldLease:
        node = await self._store.get(Node, ObjectKey(None, self._config.node))
        cidrs = [str(cidr) for cidr in node.pod_cidrs] if node is not None else []
        given = from_pod_cidrs(self._network, self._config.node, cidrs) if cidrs else None
        claimant = Claimant(self._config.node, state.machine, self._describe, given, state.subnets)
        return await acquire(self._store, self._network, claimant)

    def _describe(self, subnets: NodeSubnets) -> SubnetLeaseSpec:
        local = local_node(self._config.node, self._located, subnets)
        self._backend.check(local)  # before anything is claimed
        data, data_v6 = self._backend.lease_data(local)
        return SubnetLeaseSpec(
            node=local.name,
            subnet=local.subnet,
            ipv6Subnet=local.ipv6_subnet,
            publicIP=local.public_ip,
            publicIPv6=local.public_ipv6,
            backendType=self._backend.type,
            backendData=data,
            backendV6Data=data_v6,
        )

    def _locate(self) -> Located | None:
        """With all families that the network has; else with the one that there is."""
        ipv4, ipv6 = self._network.ipv4 is not None, self._network.ipv6 is not None
        attempts = [(True, True), (True, False), (False, True)] if ipv4 and ipv6 else [(ipv4, ipv6)]
        missing: BadConfig | None = None
        for with_ipv4, with_ipv6 in attempts:
            try:
                located = locate(self._wishes, self._reconciler.underlay, ipv4=with_ipv4, ipv6=with_ipv6)
            except BadConfig as error:
                missing = missing or error
                continue
            self._problems.clear(UNDERLAY)
            if missing is None:
                self._problems.clear(FAMILY)
            else:
                self._problems.raise_(FAMILY, missing)
            self._tell_of_overlap(located)
            return located
        assert missing is not None
        self._problems.raise_(UNDERLAY, missing)
        return None

    def _tell_of_overlap(self, located: Located) -> None:
        """The pod network is there for nobody else: what is for a machine in it may be taken for a pod's."""
        for own in (located.public_ip, located.public_ipv6):
            for network in self._network.networks:
                if own is not None and own in network:
                    what = f"the pod network {network} holds this node's own address {own}"
                    self._problems.raise_(OVERLAP, BadConfig(what, hint="choose a Network that no machine has"))
                    return
        self._problems.clear(OVERLAP)

    async def follow_underlay(self, on_move: Callable[[LocalNode], Awaitable[None]]) -> None:
        """Choose again whenever something moved; `on_move` gets the node as it is now."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            located = self._locate()
            if located is None or located == self._located:
                continue
            local = local_node(self._config.node, located, self.subnets)
            try:
                self._backend.check(local)
            except BadConfig as error:
                self._problems.raise_(UNDERLAY, error)
                continue
            self._located, self.local = located, local
            self._log.info(
                "node moved",
                interface=local.interface.name,
                address=" ".join(str(address) for address in (local.public_ip, local.public_ipv6) if address),
                mtu=local.interface.mtu,
            )
            self._stale.set()
            await on_move(local)

    def lease_lost(self) -> None:
        """Somebody deleted this node's lease: it is put again."""
        self._lost = True
        self._stale.set()

    async def publish(self) -> None:
        """Tell the store what changed. Raises AddressRefused when the subnet is another node's now."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            await patiently(self._put, self._problems)

    async def _put(self) -> None:
        if self._lost:
            await self.lease.renew()
            self._lost = False
        await self.lease.describe(self._describe(self.subnets))

    async def keep(self) -> None:
        """Renew the lease before it ends."""
        await self.lease.keep(on_problem=lambda error: self._problems.raise_("lease", error))
