"""IP pools on this node: which blocks it has, which pods get an address of them, and which blocks other nodes have.

    IPPool, IPReservation, Namespace, Node ─▶ chosen_pools ─┐
    AddressBlock ─▶ other nodes' blocks ─▶ Peers            ├─ ADD ─▶ an address of a block held
         ▲                                                  │          else claim_block, then an address of it
         └───────── claimed, given back ◀── blocks held ◀───┘

A block that is held is in the node's state, too: an agent that starts without its store goes on with it.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import summarize_address_range
from typing import TypeVar

from percale.agent.context import AgentContext
from percale.agent.informer import Change, Subscription
from percale.agent.state import NodeState
from percale.cni.attachments import AttachRequest
from percale.errors import AddressRefused, BadConfig, NetworkFull, PercaleError, StoreError, StoreUnavailable
from percale.ipam.address_blocks import claim_block, claim_given, release_block
from percale.ipam.address_pool import AddressPool, PodOf
from percale.ipam.ip_pools import Labels, PodRequest, Pool, chosen_pools, pool_of, tunnel_mode_problem, usable_pools
from percale.model.addresses import IPAddress, IPNetwork, parse_network
from percale.model.bgp import without_effect
from percale.model.ip_family import Family
from percale.model.ip_pool import AddressBlock, IPPool, IPPoolSpec, IPReservation
from percale.model.meta import Object, ObjectKey
from percale.model.namespace import Namespace
from percale.model.netconf import NetworkConfig
from percale.model.node import Node
from percale.store.protocol import Deleted, Snapshot

T = TypeVar("T")

KINDS: tuple[type[Object], ...] = (IPPool, IPReservation, AddressBlock, Namespace, Node)
POOLS, _FIELDS, _BLOCKS = "ip pools", "ip pool fields", "address blocks"
_SUBNETS_ONLY = frozenset({"udp", "wireguard", "alloc", "extension"})
"""Backends that know other nodes by one subnet each."""
_SWEEP = 30.0
"""Seconds between two looks for blocks without a pod."""
_IDLE = 300.0
"""Seconds for which a block has no pod before it is given back: no other node has its addresses sooner."""

_MOST_IDLE = 8
"""Blocks without a pod before no pod gets another one by naming an address in it: one pod after the other could take a whole
pool so."""


class NodePools:
    """All methods are called on the event loop."""

    def __init__(
        self,
        context: AgentContext,
        network: NetworkConfig,
        state: NodeState,
        pool: AddressPool,
        *,
        leased: Callable[[], Iterable[IPNetwork]],
        on_own: Callable[[], None],
        on_peer: Callable[[str, tuple[IPNetwork, ...]], None],
    ) -> None:
        """`leased` are all nodes' subnets. `on_own`: this node's blocks changed, or its pools; `on_peer`: those of another node.

        Raises BadConfig for a backend that carries nodes' subnets only.
        """
        if network.backend_type in _SUBNETS_ONLY:
            raise BadConfig(
                f"there are no IP pools with Backend.Type {network.backend_type}",
                where="ipPools",
                hint="use vxlan, host-gw, ipip or bgp, or leave out ipPools",
            )
        self._node = context.config.node
        self._store, self._problems, self._log = context.store, context.problems, context.log
        self._network, self._state, self._pool = network, state, pool
        self._leased, self._on_own, self._on_peer = leased, on_own, on_peer
        self.synced = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._specs: dict[str, IPPoolSpec] = {}
        self._reservations: dict[str, tuple[IPNetwork, ...]] = {}
        self._namespaces: dict[str, tuple[Labels, Labels]] = {}
        """Labels and annotations."""
        self._labels: Labels = {}
        self._subnets_assigned = False
        """This node's, by the cluster: then it is not known where other nodes' will be."""
        self._blocks: defaultdict[str, dict[ObjectKey, AddressBlock]] = defaultdict(dict)
        """By node."""
        self._node_of: dict[ObjectKey, str] = {}
        self._idle_since: dict[IPNetwork, float] = {}
        self.pools: tuple[Pool, ...] = ()

    async def run(self, changes: Subscription) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(changes.run(self._on_change), name="ip pools")
            tasks.create_task(self._sweep(), name="address blocks")

    @property
    def without_nat(self) -> tuple[IPNetwork, ...]:
        """Pods of these pools keep their address on their way out."""
        return tuple(pool.network for pool in self.pools if not pool.nat)

    # What the cluster says

    async def _on_change(self, event: Change) -> None:
        if isinstance(event, Snapshot):
            before = set(self._blocks)
            for known in (self._specs, self._reservations, self._namespaces, self._blocks, self._node_of):
                known.clear()
            for obj in event.objects:
                self._put(obj, gone=False)
            self._update_pools()
            for node in before | self._blocks.keys():
                self._tell_blocks(node)
            await self._restore_lost()
            self.synced.set()
            return
        gone = isinstance(event, Deleted)
        self._put(event.object, gone=gone)
        match event.object:
            case IPPool() | IPReservation() | Node():
                self._update_pools()
            case AddressBlock() as block:
                self._tell_blocks(block.spec.node)
                if gone and block.spec.node == self._node:
                    await self._restore_lost()

    def _put(self, obj: Object, *, gone: bool) -> None:
        name = obj.metadata.name
        match obj:
            case IPPool(spec=spec):
                _set(self._specs, name, None if gone else spec)
            case IPReservation(spec=spec):
                _set(self._reservations, name, None if gone else tuple(map(parse_network, spec.reservedCIDRs)))
            case Namespace():
                _set(self._namespaces, name, None if gone else (obj.labels, obj.metadata.annotations))
            case Node() if name == self._node:
                self._labels = {} if gone else obj.metadata.labels
                self._subnets_assigned = bool(obj.pod_cidrs)
            case AddressBlock():
                if (before := self._node_of.pop(obj.key, None)) is not None:
                    self._blocks[before].pop(obj.key, None)
                    if before != obj.spec.node:
                        self._tell_blocks(before)
                if not gone:
                    self._blocks[obj.spec.node][obj.key] = obj
                    self._node_of[obj.key] = obj.spec.node
            case _:
                pass

    def _tell_blocks(self, node: str) -> None:
        """Those of another node."""
        if node != self._node:
            blocks = (each.network for each in self._blocks[node].values())
            self._on_peer(node, tuple(sorted(blocks, key=lambda each: (each.version, each))))
            if not self._blocks[node]:
                del self._blocks[node]

    def _update_pools(self) -> None:
        pools, left_out = usable_pools(self._specs, self._network.networks, self._has_subnets)
        if left_out:
            hint = "a pool is a part of Network that nodes' own subnets are not in (SubnetMin, SubnetMax, podCIDRs)"
            self._problems.raise_(POOLS, BadConfig(_first(left_out), hint=hint))
        else:
            self._problems.clear(POOLS)
        ignored = [text for name, spec in sorted(self._specs.items()) for text in self._without_effect(name, spec)]
        if ignored:
            self._problems.raise_(_FIELDS, BadConfig(_first(ignored)))
        else:
            self._problems.clear(_FIELDS)
        if pools != self.pools:
            self.pools = pools
            self._on_own()

    def _without_effect(self, name: str, spec: IPPoolSpec) -> Iterator[str]:
        yield from (f"IPPool {name}: spec.{path} has no effect here" for path in without_effect(spec))
        problem = tunnel_mode_problem(spec, self._network.backend_type, self._network.options)
        if problem is not None:
            yield f"IPPool {name}: {problem}"

    def _has_subnets(self, network: IPNetwork) -> bool:
        """Whether nodes' own subnets are in this network, or may be."""
        if any(each.version == network.version and each.overlaps(network) for each in self._leased()):
            return True
        mine = self._network.families.get(Family(network.version))
        if mine is None or self._subnets_assigned:
            return False
        reach = summarize_address_range(mine.first.network_address, mine.last.broadcast_address)
        return any(each.overlaps(network) for each in reach)

    # ADD

    async def allocate(self, request: AttachRequest, pod_of: PodOf) -> tuple[IPAddress, ...]:
        """The pod's addresses, of its pools or of the node's subnets. Raises AddressError, StateError, StoreError."""
        if not self.synced.is_set():
            raise StoreUnavailable("the IP pools are not known yet", where=f"node {self._node}")

        def barred(address: IPAddress) -> bool:
            return self._is_reserved(address) or pod_of(address) is not None

        chosen: dict[int, Sequence[Pool]] = {}
        if request.owner not in self._pool.allocations:
            asked = {address.version: address for address in request.addresses}
            for address in asked.values():
                await self._hold_block_of(address)
            for family in self._network.families:
                found = chosen_pools(self.pools, family, self._pod_request(request)) if family not in asked else None
                if found is not None:
                    chosen[family] = found
        while not all(self._pool.has_room(self._held(pools), barred) for pools in chosen.values()):
            for pools in chosen.values():
                await self._make_room(pools, barred)
        within = {family: self._held(pools) for family, pools in chosen.items()}
        return self._pool.allocate(
            request.owner,
            pod=str(request.pod) if request.pod else None,
            wanted=request.addresses,
            pod_of=pod_of,
            within=within,
            reserved=self._is_reserved,
        )

    def _pod_request(self, request: AttachRequest) -> PodRequest:
        namespace = request.pod.namespace if request.pod is not None else ""
        labels, annotations = self._namespaces.get(namespace, ({}, {}))
        return PodRequest(str(request.pod or request.owner), request.annotations, annotations, labels, self._labels)

    def _is_reserved(self, address: IPAddress) -> bool:
        return any(address in network for networks in self._reservations.values() for network in networks)

    def _held(self, pools: Iterable[Pool]) -> Sequence[IPNetwork]:
        return [block for pool in pools for block in self._pool.blocks if _within(block, pool)]

    async def _make_room(self, pools: Sequence[Pool], barred: Callable[[IPAddress], bool]) -> None:
        """One more block where all that are held are full. Raises NetworkFull, StoreError, StateError."""
        async with self._claiming:
            if not self._pool.has_room(self._held(pools), barred):
                self._hold(await self._claim(pools))

    async def _claim(self, pools: Sequence[Pool]) -> IPNetwork:
        full: NetworkFull | None = None
        for pool in pools:
            try:
                return await claim_block(
                    self._store, pool, self._node, held=self._pool.blocks, subnets=tuple(self._leased())
                )
            except NetworkFull as error:
                full = full or error
        assert full is not None
        raise full

    async def _hold_block_of(self, address: IPAddress) -> None:
        """For a pod that asks for this address. Raises AddressRefused, StoreError."""
        pool = pool_of(self.pools, address)
        if pool is None:
            return
        pool.check_enabled(f"node {self._node}, for {address}")
        if any(address in held for held in self._pool.blocks):
            return
        async with self._claiming:
            if (idle := sum(not self._pool.is_used(block) for block in self._pool.blocks)) >= _MOST_IDLE:
                raise AddressRefused(
                    f"{address} was asked for, and this node has {idle} blocks of IP pools without a pod already",
                    where=f"node {self._node}",
                    hint=f"a block is given back when it has had no pod for {_IDLE / 60:.0f} minutes",
                )
            block = pool.block_of(address)
            await claim_given(self._store, block, self._node)
            self._hold(block)

    def _hold(self, block: IPNetwork) -> None:
        """Raises StateError: then the claim is finished at the next one."""
        self._state.save_blocks((*self._pool.blocks, block))
        self._pool.add_block(block)
        self._log.info("block claimed", block=block)
        self._on_own()

    # What becomes of blocks

    async def _restore_lost(self) -> None:
        """The store lacks a block that is held: it is written again while pods have addresses of it, else given up."""
        listed = {block.network for block in self._blocks[self._node].values()}
        for block in [each for each in self._pool.blocks if each not in listed]:
            if self._give_up(block):
                continue
            try:
                await claim_given(self._store, block, self._node)
            except (AddressRefused, StoreError) as error:
                self._problems.raise_(_BLOCKS, error)
                return
        self._problems.clear(_BLOCKS)

    def _give_up(self, block: IPNetwork) -> bool:
        """Whether no pod has an address of it."""
        if not self._pool.remove_block(block):
            return False
        self._idle_since.pop(block, None)
        self._state.save_blocks(self._pool.blocks)
        self._log.info("block given up", block=block)
        self._on_own()
        return True

    async def _sweep(self) -> None:
        await self.synced.wait()
        while True:
            await asyncio.sleep(_SWEEP)
            try:
                async with self._claiming:
                    await self._release_idle(time.monotonic())
                    await self._restore_lost()
            except PercaleError as error:
                self._problems.raise_(_BLOCKS, error)

    async def _release_idle(self, now: float) -> None:
        """The last block of a pool that is in use stays. Raises StoreError, StateError."""
        for block in self._pool.blocks:
            if self._pool.is_used(block):
                self._idle_since.pop(block, None)
            elif now - self._idle_since.setdefault(block, now) >= _IDLE and not self._is_last(block):
                self._give_up(block)
        for known in list(self._blocks[self._node].values()):
            if known.network not in self._pool.blocks:
                await release_block(self._store, known)

    def _is_last(self, block: IPNetwork) -> bool:
        pool = next((pool for pool in self.pools if _within(block, pool)), None)
        if pool is None or not pool.enabled:
            return False
        return sum(_within(each, pool) for each in self._pool.blocks) == 1


def _set(known: dict[str, T], name: str, value: T | None) -> None:
    if value is None:
        known.pop(name, None)
    else:
        known[name] = value


def _within(block: IPNetwork, pool: Pool) -> bool:
    return block.version == pool.network.version and block.subnet_of(pool.network)  # type: ignore[arg-type]


def _first(texts: Sequence[str]) -> str:
    more = f" (and {len(texts) - 1} more)" if texts[1:] else ""
    return texts[0] + more
