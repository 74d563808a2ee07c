"""Allocates pod addresses from this node's subnets and blocks, with a journal on disk. Called by cni and at startup.

    allocate ─▶ pick per family ─▶ journal line ─▶ memory        a failure changes nothing
                   never used, in order; then least recently released

One caller at a time; a call blocks for one write to the page cache (some microseconds).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from percale.errors import AddressRefused, StateError, SubnetFull
from percale.ipam.address_journal import Allocated, FreeAgain, Journal, Record, Released, corrupt
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.subnet_lease import NodeSubnets

_WINDOW = 1 << 16
"""Addresses of a subnet that are allocated automatically; others of a larger subnet only on request."""
_STALE_LINES = 4096
"""Obsolete lines before the journal is rewritten."""


PodOf: TypeAlias = Callable[[IPAddress], object | None]
"""The pod that has an address by its object: other nodes would take whoever gets the address for that pod."""


Within: TypeAlias = Mapping[int, Sequence[IPNetwork]]
"""Blocks by IP version."""


class Owner(NamedTuple):
    """One interface of one container (CNI's container id and IFNAME)."""

    container: str
    ifname: str

    def __str__(self) -> str:
        return f"container {self.container} {self.ifname}"


class Allocation(Struct, frozen=True):
    """An owner's addresses: at most one address per family, IPv4 first. `pod` is `namespace/name` where known."""

    owner: Owner
    addresses: tuple[IPAddress, ...]
    pod: str | None = None

    def __str__(self) -> str:
        return f"pod {self.pod}" if self.pod else str(self.owner)


def gateway(subnet: IPNetwork) -> IPAddress:
    """The first host address: the bridge's with bridge wiring, always reserved."""
    return subnet.network_address + 1


class AddressPool:
    """Raises StateError if the journal cannot be read or written; then nothing has changed."""

    def __init__(self, path: Path, node: str, subnets: NodeSubnets, blocks: Iterable[IPNetwork] = ()) -> None:
        """`blocks` are this node's of IP pools."""
        self._where = f"node {node}"
        self._families = tuple(_SubnetPool(subnet) for subnet in subnets)
        self._blocks: dict[IPNetwork, _SubnetPool] = {}
        for block in blocks:
            self.add_block(block)
        self._allocations: dict[Owner, Allocation] = {}
        self._users: dict[IPAddress, Allocation] = {}
        self._journal = Journal(path)
        self._lines = 0
        for place, record in self._journal.replay():
            self._replay(place, record)
            self._lines += 1
        self._compact(slack=0)

    @property
    def allocations(self) -> Mapping[Owner, Allocation]:
        """All addresses in use."""
        return MappingProxyType(self._allocations)

    def outside_subnets(self) -> list[Allocation]:
        """Allocations of an earlier subnet of this node: kept until released, unreachable from other nodes."""
        return [
            allocation
            for allocation in self._allocations.values()
            if any(self._family(address) is None for address in allocation.addresses)
        ]

    def capacity(self, subnet: IPNetwork) -> int:
        """How many addresses of this subnet or block are allocated automatically."""
        return next(each.size for each in self._all if each.subnet == subnet)

    @property
    def blocks(self) -> tuple[IPNetwork, ...]:
        """Of IP pools."""
        return tuple(self._blocks)

    def add_block(self, block: IPNetwork) -> None:
        """This node has it from now on. Addresses at the place of a node's tunnel and bridge are none of pods'."""
        if block not in self._blocks:
            ends = [family.subnet for family in self._families if family.version == block.version]
            self._blocks[block] = _SubnetPool(block, like=ends[0] if ends else block)

    def remove_block(self, block: IPNetwork) -> bool:
        """Whether it is gone: not while one of its addresses is in use."""
        if self.is_used(block):
            return False
        self._blocks.pop(block, None)
        return True

    def is_used(self, block: IPNetwork) -> bool:
        """Whether one of its addresses is in use."""
        return any(address in block for address in self._users)

    def has_room(self, blocks: Iterable[IPNetwork], barred: Callable[[IPAddress], bool]) -> bool:
        """Whether one of these has a free address that is not barred."""
        return any(self._blocks[block].pick(self._users, barred) is not None for block in blocks)

    @property
    def _all(self) -> tuple[_SubnetPool, ...]:
        return (*self._families, *self._blocks.values())

    def allocate(
        self,
        owner: Owner,
        *,
        pod: str | None = None,
        wanted: Iterable[IPAddress] = (),
        pod_of: PodOf = lambda _: None,
        within: Within = MappingProxyType({}),
        reserved: Callable[[IPAddress], bool] = lambda _: False,
    ) -> tuple[IPAddress, ...]:
        """One address per family; idempotent for an owner. `wanted` ones are allocated or rejected.

        An address that the object of a pod has is not allocated, nor, unless it is wanted, a reserved one. `within` are the
        blocks that a family's address comes from, in order; without any it is the subnet. Raises AddressRefused, SubnetFull,
        StateError.
        """
        requested = self._validated(wanted)
        held = self._allocations.get(owner)
        if held is not None:
            if refused := [address for address in requested.values() if address not in held.addresses]:
                raise AddressRefused(f"{refused[0]} was asked for, but {held} already has others", where=self._where)
            return held.addresses

        def barred(address: IPAddress) -> bool:
            return reserved(address) or pod_of(address) is not None

        addresses = tuple(
            self._choose(family, requested.get(family.version), pod_of, within.get(family.version), barred)
            for family in self._families
        )
        self._journal.append([Allocated(*owner, tuple(map(str, addresses)), pod)])
        self._add(Allocation(owner, addresses, pod))
        self._lines_added(1)
        return addresses

    def release(self, owner: Owner) -> tuple[IPAddress, ...]:
        """Release the owner's addresses; () if there are none."""
        return tuple(address for allocation in self._release([owner]) for address in allocation.addresses)

    def gc(self, keep: Iterable[Owner]) -> list[Allocation]:
        """Release all owners except these; returns the released allocations."""
        kept = set(keep)
        return self._release([owner for owner in self._allocations if owner not in kept])

    def close(self) -> None:
        self._journal.close()

    def _validated(self, wanted: Iterable[IPAddress]) -> dict[int, IPAddress]:
        """The wanted addresses by IP version, validated."""
        requested: dict[int, IPAddress] = {}
        for address in wanted:
            if requested.setdefault(address.version, address) != address:
                raise AddressRefused(
                    f"two IPv{address.version} addresses asked for, {requested[address.version]} and {address}",
                    where=self._where,
                )
            family = self._family(address)
            if family is None:
                mine = " and ".join(str(each.subnet) for each in self._all)
                raise AddressRefused(f"{address} was asked for, but this node has {mine}", where=self._where)
            if not family.is_assignable(address):
                raise AddressRefused(
                    f"{address} was asked for, but it is the network's, the gateway's or the broadcast address",
                    where=self._where,
                )
        return requested

    def _choose(
        self,
        family: _SubnetPool,
        requested: IPAddress | None,
        pod_of: PodOf,
        blocks: Sequence[IPNetwork] | None,
        barred: Callable[[IPAddress], bool],
    ) -> IPAddress:
        if requested is None:
            return self._pick([family] if blocks is None else [self._blocks[block] for block in blocks], barred)
        if (user := self._users.get(requested)) is not None:
            raise AddressRefused(f"{requested} was asked for, but {user} has it", where=self._where)
        if (other := pod_of(requested)) is not None:
            raise AddressRefused(
                f"{requested} was asked for, but the object of pod {other} has it",
                where=self._where,
                hint="it is free when that object is gone",
            )
        return requested

    def _pick(self, subnets: Sequence[_SubnetPool], barred: Callable[[IPAddress], bool]) -> IPAddress:
        """Of the first one that has a free address. Raises SubnetFull."""
        for subnet in subnets:
            found = subnet.pick(self._users, barred)
            if found is not None:
                return found
        sizes = ", ".join(
            f"{each.subnet} is full ({each.size} of {each.size}"
            + (f", {len(each.released)} of them by objects of pods that are gone)" if each.released else ")")
            for each in subnets
        )
        raise SubnetFull(
            sizes or "no block of an IP pool yet",
            where=self._where,
            hint="delete pods of this node, or give nodes larger subnets (a smaller SubnetLen in net-conf.json)",
        )

    def _release(self, owners: Iterable[Owner]) -> list[Allocation]:
        released = [allocation for owner in owners if (allocation := self._allocations.get(owner)) is not None]
        if released:
            self._journal.append([Released(*allocation.owner) for allocation in released])
            for allocation in released:
                self._remove(allocation)
            self._lines_added(len(released))
        return released

    def _add(self, allocation: Allocation) -> None:
        self._allocations[allocation.owner] = allocation
        for address in allocation.addresses:
            self._users[address] = allocation
            if (family := self._family(address)) is not None:
                family.released.pop(address, None)

    def _remove(self, allocation: Allocation) -> None:
        del self._allocations[allocation.owner]
        for address in allocation.addresses:
            del self._users[address]
            self._add_released(address)

    def _add_released(self, address: IPAddress) -> None:
        family = self._family(address)
        if family is not None and family.in_window(address):
            family.released[address] = None

    def _family(self, address: IPAddress) -> _SubnetPool | None:
        """The subnet or block that contains the address."""
        return next((each for each in self._all if address in each.subnet), None)

    def _replay(self, place: str, record: Record) -> None:
        match record:
            case FreeAgain():
                self._add_released(_parsed(place, record.address))
            case Released():
                allocation = self._allocations.get(Owner(record.container, record.ifname))
                if allocation is None:
                    raise corrupt(place, f"{Owner(record.container, record.ifname)} releases what it never had")
                self._remove(allocation)
            case Allocated():
                owner = Owner(record.container, record.ifname)
                addresses = tuple(_parsed(place, address) for address in record.addresses)
                if owner in self._allocations:
                    raise corrupt(place, f"{owner} has addresses already")
                for address in addresses:
                    if address in self._users:
                        raise corrupt(place, f"{address} is in use by {self._users[address]} already")
                self._add(Allocation(owner, addresses, record.pod))

    def _lines_added(self, lines: int) -> None:
        self._lines += lines
        self._compact(slack=_STALE_LINES)

    def _compact(self, slack: int) -> None:
        """Rewrite the journal if it has more than `slack` obsolete lines."""
        live = len(self._allocations) + sum(len(each.released) for each in self._all)
        if self._lines > live + slack:
            with suppress(StateError):  # the long journal is still correct: compaction can wait for disk space
                self._journal.rewrite(self._records())
                self._lines = live

    def _records(self) -> Iterator[Record]:
        for each in self._all:
            yield from (FreeAgain(str(address)) for address in each.released)
        for allocation in self._allocations.values():
            yield Allocated(*allocation.owner, tuple(map(str, allocation.addresses)), allocation.pod)


class _SubnetPool:
    """A subnet or block: its free addresses and their order of allocation."""

    def __init__(self, subnet: IPNetwork, *, like: IPNetwork | None = None) -> None:
        """Of a block all addresses are pods', except those at the place of the first two of a subnet `like` this one."""
        self.subnet = subnet
        self.version = subnet.version
        self._hosts = int((like or subnet).hostmask)
        self._whole = like is not None
        first = int(subnet.network_address)
        self.first = first + max(0, 2 - (first & self._hosts))
        broadcast = 1 if isinstance(subnet, IPv4Network) and not self._whole else 0
        self.last = min(int(subnet.broadcast_address) - broadcast, self.first + _WINDOW - 1)
        self.size = max(self.last - self.first + 1, 0)
        self.released: OrderedDict[IPAddress, None] = OrderedDict()
        self._next = self.first

    def is_assignable(self, address: IPAddress) -> bool:
        """Not the network's, the gateway's or the broadcast address."""
        broadcast = self.version == 4 and address == self.subnet.broadcast_address and not self._whole
        return not broadcast and int(address) & self._hosts > 1

    def in_window(self, address: IPAddress) -> bool:
        """Whether it is allocated automatically."""
        return self.first <= int(address) <= self.last

    def pick(self, users: Mapping[IPAddress, Allocation], barred: Callable[[IPAddress], bool]) -> IPAddress | None:
        """A free address: never-used ones first, then the least recently released."""
        while self._next <= self.last:
            address = type(self.subnet.network_address)(self._next)
            if address not in users and address not in self.released:
                if not barred(address):
                    return address
                self.released[address] = None
            self._next += 1
        for address in self.released:
            if not barred(address):
                return address
        return None


def _parsed(place: str, text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError as error:
        raise corrupt(place, f'"{text}" is not an address') from error
