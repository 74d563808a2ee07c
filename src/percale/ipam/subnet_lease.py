"""This node's subnet lease: acquire, renew, update and release, on any store. Called by the agent.

    acquire ─▶ HeldLease ── keep_renewed() renews until cancelled
                   ├─ update() after the node's address or backend data changed
                   └─ release() when the node leaves

Two nodes never hold one subnet: a lease is named after its subnets, and only created if none exists.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec
from msgspec import Struct

from percale.errors import AddressRefused, BadConfig, Conflict, NetworkFull, NotFound, StoreError
from percale.ipam.subnet_plan import (
    candidate_count,
    first_overlap,
    fitting,
    free_candidates,
    from_pod_cidrs,
    own_place,
)
from percale.model.addresses import IPAddress
from percale.model.netconf import NetworkConfig
from percale.model.subnet_lease import (
    MACHINE,
    OTHER_BACKEND,
    RESERVED,
    NodeSubnets,
    SubnetLease,
    SubnetLeaseSpec,
    make_lease,
)
from percale.store.protocol import Store

TTL = 24 * 3600.0
RENEW_BEFORE = 3600.0
_MAX_SLEEP = 60.0
"""Seconds between checks of the clock: after suspend the agent soon notices that its lease is due."""
_RETRY = 5.0
"""Seconds between renewal attempts while the store is unreachable."""

SpecFor = Callable[[NodeSubnets], SubnetLeaseSpec]


class Claimant(Struct, frozen=True):
    """The node that acquires a subnet, with its preferences.

    `public_ips` are its addresses for peers; `spec_for` gives the lease's spec for the acquired subnets; `pod_cidrs` are
    assigned by Kubernetes and mandatory; `previous` are the subnets of the previous run. `at_own_place`: a free subnet is
    looked for from a place on that follows from the node's name, for nodes that start at once all lose the first but one.
    """

    node: str
    machine: str
    public_ips: tuple[IPAddress, ...]
    spec_for: SpecFor
    pod_cidrs: NodeSubnets | None = None
    previous: NodeSubnets | None = None
    at_own_place: bool = False

    @property
    def where(self) -> str:
        """The location in errors."""
        return f"node {self.node}"


async def acquire(store: Store, config: NetworkConfig, claimant: Claimant) -> HeldLease:
    """Acquire a lease for this node: its current one, else the previous subnet, else the first free one.

    Raises BadConfig (another machine has this name or this public address), AddressRefused (the podCIDR is another
    node's), NetworkFull, StoreUnavailable.
    """
    leases = await store.list(SubnetLease)
    _check_unique(claimant, leases)
    own: list[SubnetLease] = []
    others: list[SubnetLease] = []
    for lease in leases:
        (own if _is_of_node(claimant, lease) else others).append(lease)
    preferred = _preferred(config, claimant, own)
    kept = next((lease for lease in own if lease.spec.subnets in preferred), None)
    for lease in own:
        if lease is not kept and RESERVED not in lease.metadata.annotations:
            await _delete(store, lease)
    if kept is not None:
        held = HeldLease(store, claimant, _updated(kept, claimant))
        await held.renew()
    elif claimant.pod_cidrs is not None:
        held = HeldLease(store, claimant, await _claim_given(store, claimant, claimant.pod_cidrs, others))
    else:
        held = HeldLease(store, claimant, await _claim_first(store, config, claimant, preferred, others))
    await _withdraw_on_conflict(store, claimant, held.lease)
    return held


def still_held(store: Store, config: NetworkConfig, claimant: Claimant) -> HeldLease | None:
    """The lease of the previous run, for as long as the store cannot be asked; then it is to be renewed.

    None without one, or if it is none of this network.
    """
    if claimant.previous is None:
        return None
    try:
        subnets = from_pod_cidrs(config, claimant.node, map(str, claimant.previous))
    except AddressRefused:
        return None
    return HeldLease(store, claimant, _lease_for(subnets, claimant))


class HeldLease:
    """The lease that this node holds; the store's copy may be older while the store is unreachable."""

    def __init__(self, store: Store, claimant: Claimant, lease: SubnetLease) -> None:
        self._store = store
        self._claimant = claimant
        self._writing = asyncio.Lock()
        self.lease = lease

    async def update(self, spec: SubnetLeaseSpec, other_backend: str | None = None) -> None:
        """Publish another public address or backend data. Equal ones write nothing."""
        if spec.subnets != self.lease.spec.subnets:
            raise ValueError("a lease's subnets never change")
        if (spec, other_backend) != (self.lease.spec, self._other_backend):
            await self._put(spec, other_backend)

    async def renew(self) -> None:
        """Write the lease again, even if it expired or was deleted. Raises BadConfig, StoreUnavailable."""
        await self._put(self.lease.spec, self._other_backend)

    @property
    def _other_backend(self) -> str | None:
        return self.lease.metadata.annotations.get(OTHER_BACKEND)

    async def keep_renewed(
        self,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        on_problem: Callable[[StoreError], None] = lambda error: None,
    ) -> None:
        """Renew an hour before expiry, until cancelled; retries while the store is unreachable.

        `clock` counts seconds, including suspend, independent of the time of day.
        """
        due = clock() + TTL - RENEW_BEFORE
        while True:
            await sleep(min(_MAX_SLEEP, max(due - clock(), 0.0)))
            if clock() < due:
                continue
            try:
                await self.renew()
                due = clock() + TTL - RENEW_BEFORE
            except StoreError as error:
                on_problem(error)
                due = clock() + _RETRY

    async def release(self) -> None:
        """Delete the lease, unless it is a reservation."""
        async with self._writing:
            if RESERVED not in self.lease.metadata.annotations:
                await _delete(self._store, self.lease)

    async def _put(self, spec: SubnetLeaseSpec, other_backend: str | None) -> None:
        """Overwrite our own lease, whatever its version; never another node's."""
        async with self._writing:
            while True:
                current = await self._store.get(SubnetLease, self.lease.key)
                if current is not None and not _is_ours(current, self._claimant):
                    raise AddressRefused(
                        f"its subnet {spec.subnets} is node {current.spec.node}'s now",
                        where=self._claimant.where,
                        hint="restart the agent to claim another one",
                    )
                lease = msgspec.structs.replace(_updated(current or self.lease, self._claimant), spec=spec)
                lease = _with_other_backend(lease, other_backend)
                version = (current.metadata.resourceVersion or "") if current is not None else ""
                try:
                    self.lease = await _put(self._store, lease, expect=version)
                except Conflict:
                    continue
                return


def _preferred(config: NetworkConfig, claimant: Claimant, own: Iterable[SubnetLease]) -> list[NodeSubnets]:
    """The subnets that this node prefers to any free one, best first."""
    if claimant.pod_cidrs is not None:
        return [claimant.pod_cidrs]
    earlier = [lease.spec.subnets for lease in own]
    if claimant.previous is not None:
        earlier.append(claimant.previous)
    exact = [subnets for subnets in earlier if fitting(config, subnets) == subnets]
    related = [subnets for before in earlier if (subnets := fitting(config, before)) is not None]
    return [*exact, *related]


async def _claim_given(
    store: Store, claimant: Claimant, subnets: NodeSubnets, others: Iterable[SubnetLease]
) -> SubnetLease:
    """The subnets of the Node object; there is no fallback."""
    for other in others:
        _check_overlap(claimant, subnets, other)
    fresh = _lease_for(subnets, claimant)
    try:
        return await _put(store, fresh, expect="")
    except Conflict as error:
        winner = await store.get(SubnetLease, fresh.key)
        if winner is not None:
            _check_unique(claimant, [winner])
            _check_overlap(claimant, subnets, winner)
        raise AddressRefused(f"podCIDR {subnets} was taken meanwhile", where=claimant.where) from error


async def _claim_first(
    store: Store,
    config: NetworkConfig,
    claimant: Claimant,
    preferred: Iterable[NodeSubnets],
    others: Iterable[SubnetLease],
) -> SubnetLease:
    """The first candidate that can be created: after a lost race the next one is tried."""
    taken = [subnet for other in others for subnet in other.spec.subnets]

    def candidates() -> Iterator[NodeSubnets]:
        yield from (subnets for subnets in preferred if first_overlap(subnets, taken) is None)
        yield from free_candidates(config, taken, _place(config, claimant))

    for subnets in candidates():
        try:
            return await _put(store, _lease_for(subnets, claimant), expect="")
        except Conflict:
            continue
    raise NetworkFull(
        f"no free subnet in {' and '.join(map(str, config.networks))} "
        f"({candidate_count(config)} between SubnetMin and SubnetMax)",
        where=claimant.where,
        hint="enlarge Network or SubnetLen in net-conf.json, or delete the lease of a node that is gone",
    )


def _place(config: NetworkConfig, claimant: Claimant) -> int:
    """The number of the candidate that this node tries first."""
    return own_place(claimant.node, candidate_count(config)) if claimant.at_own_place else 0


def _lease_for(subnets: NodeSubnets, claimant: Claimant) -> SubnetLease:
    """A new lease of ours."""
    return _updated(make_lease(claimant.spec_for(subnets)), claimant)


def _updated(lease: SubnetLease, claimant: Claimant) -> SubnetLease:
    """The lease with the current spec and this machine's annotation."""
    annotations = {**lease.metadata.annotations, MACHINE: claimant.machine}
    metadata = msgspec.structs.replace(lease.metadata, annotations=annotations)
    return msgspec.structs.replace(lease, metadata=metadata, spec=claimant.spec_for(lease.spec.subnets))


def _with_other_backend(lease: SubnetLease, other_backend: str | None) -> SubnetLease:
    annotations = {**lease.metadata.annotations, OTHER_BACKEND: other_backend}
    given = {key: text for key, text in annotations.items() if text is not None}
    return msgspec.structs.replace(lease, metadata=msgspec.structs.replace(lease.metadata, annotations=given))


async def _put(store: Store, lease: SubnetLease, *, expect: str) -> SubnetLease:
    return await store.put(lease, expect=expect, ttl=None if RESERVED in lease.metadata.annotations else TTL)


async def _delete(store: Store, lease: SubnetLease) -> None:
    """Without error if it is gone already."""
    try:
        await store.delete(SubnetLease, lease.key)
    except NotFound:
        return


async def _withdraw_on_conflict(store: Store, claimant: Claimant, lease: SubnetLease) -> None:
    """Two nodes may have claimed at the same moment without seeing each other: whichever sees the conflict withdraws."""
    leases = await store.list(SubnetLease)
    try:
        _check_unique(claimant, leases)
        for other in leases:
            if not _is_of_node(claimant, other):
                _check_overlap(claimant, lease.spec.subnets, other)
    except (BadConfig, AddressRefused):
        await _delete(store, lease)
        raise


def _is_of_node(claimant: Claimant, lease: SubnetLease) -> bool:
    """By its name; a lease that flannel wrote into etcd has its node's address instead, and this node takes it over."""
    spec = lease.spec
    if spec.node == claimant.node:
        return True
    if MACHINE in lease.metadata.annotations or _shared_address(claimant, spec) is None:
        return False
    return spec.node in map(str, spec.public_ips)


def _shared_address(claimant: Claimant, spec: SubnetLeaseSpec) -> IPAddress | None:
    """A public address of both."""
    return next((address for address in claimant.public_ips if address in spec.public_ips), None)


def _is_ours(lease: SubnetLease, claimant: Claimant) -> bool:
    """A lease without a machine was created manually for its node."""
    machine = lease.metadata.annotations.get(MACHINE, claimant.machine)
    return _is_of_node(claimant, lease) and machine == claimant.machine


def _check_unique(claimant: Claimant, leases: Iterable[SubnetLease]) -> None:
    """Raises BadConfig if another machine has this node's name, or another node its public address."""
    for lease in leases:
        other = lease.spec
        if other.node == claimant.node:
            if not _is_ours(lease, claimant):
                raise BadConfig(
                    f"another machine ({_addresses(other)}) has this name and holds {other.subnets}",
                    where=claimant.where,
                    hint=f"give this node another name, or delete SubnetLease {lease.metadata.name} "
                    "if that machine is gone",
                )
        elif (shared := _shared_address(claimant, other)) is not None and not _is_of_node(claimant, lease):
            raise BadConfig(
                f"public address {shared} is node {other.node}'s too",
                where=claimant.where,
                hint=f"set --public-ip on one of them, or delete SubnetLease {lease.metadata.name} "
                f"if {other.node} is gone",
            )


def _check_overlap(claimant: Claimant, subnets: NodeSubnets, other: SubnetLease) -> None:
    """Raises AddressRefused."""
    if (pair := first_overlap(subnets, other.spec.subnets)) is not None:
        raise AddressRefused(
            f"subnet {pair[0]} overlaps {pair[1]} of node {other.spec.node}",
            where=claimant.where,
            hint="correct the podCIDR of one of them",
        )


def _addresses(spec: SubnetLeaseSpec) -> str:
    return ", ".join(map(str, spec.public_ips)) or "no address"
