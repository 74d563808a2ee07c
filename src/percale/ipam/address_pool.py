"""Allocates pod addresses from this node's subnets, with a journal on disk. Called by cni (ADD, DEL, GC) and at startup.

    allocate ─▶ pick per family ─▶ journal line ─▶ memory        a failure changes nothing
                   never used, in order; then least recently released

One caller at a time; a call blocks for one write to the page cache (some microseconds).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
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

    def __init__(self, path: Path, node: str, subnets: NodeSubnets) -> None:
        self._where = f"node {node}"
        self._families = tuple(_SubnetPool(subnet) for subnet in subnets)
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
        """How many addresses of this subnet are allocated automatically."""
        return next(family.size for family in self._families if family.subnet == subnet)

    def allocate(
        self,
        owner: Owner,
        *,
        pod: str | None = None,
        wanted: Iterable[IPAddress] = (),
        pod_of: PodOf = lambda _: None,
    ) -> tuple[IPAddress, ...]:
        """One address per family; idempotent for an owner. `wanted` ones are allocated or rejected.

        An address that the object of a pod has is not allocated. Raises AddressRefused, SubnetFull, StateError.
        """
        requested = self._validated(wanted)
        held = self._allocations.get(owner)
        if held is not None:
            if refused := [address for address in requested.values() if address not in held.addresses]:
                raise AddressRefused(f"{refused[0]} was asked for, but {held} already has others", where=self._where)
            return held.addresses
        addresses = tuple(self._choose(family, requested.get(family.version), pod_of) for family in self._families)
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
                mine = " and ".join(str(family.subnet) for family in self._families)
                raise AddressRefused(f"{address} was asked for, but this node has {mine}", where=self._where)
            if not family.is_assignable(address):
                raise AddressRefused(
                    f"{address} was asked for, but it is the network's, the gateway's or the broadcast address",
                    where=self._where,
                )
        return requested

    def _choose(self, family: _SubnetPool, requested: IPAddress | None, pod_of: PodOf) -> IPAddress:
        if requested is None:
            return family.pick(self._users, pod_of, self._where)
        if (user := self._users.get(requested)) is not None:
            raise AddressRefused(f"{requested} was asked for, but {user} has it", where=self._where)
        if (other := pod_of(requested)) is not None:
            raise AddressRefused(
                f"{requested} was asked for, but the object of pod {other} has it",
                where=self._where,
                hint="it is free when that object is gone",
            )
        return requested

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
        """The family whose subnet contains the address."""
        return next((family for family in self._families if address in family.subnet), None)

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
        live = len(self._allocations) + sum(len(family.released) for family in self._families)
        if self._lines > live + slack:
            with suppress(StateError):  # the long journal is still correct: compaction can wait for disk space
                self._journal.rewrite(self._records())
                self._lines = live

    def _records(self) -> Iterator[Record]:
        for family in self._families:
            yield from (FreeAgain(str(address)) for address in family.released)
        for allocation in self._allocations.values():
            yield Allocated(*allocation.owner, tuple(map(str, allocation.addresses)), allocation.pod)


class _SubnetPool:
    """One family's subnet: its free addresses and their order of allocation."""

    def __init__(self, subnet: IPNetwork) -> None:
        self.subnet = subnet
        self.version = subnet.version
        self.first = int(subnet.network_address) + 2
        broadcast = 1 if isinstance(subnet, IPv4Network) else 0
        self.last = min(int(subnet.broadcast_address) - broadcast, self.first + _WINDOW - 1)
        self.size = self.last - self.first + 1
        self.released: OrderedDict[IPAddress, None] = OrderedDict()
        self._next = self.first

    def is_assignable(self, address: IPAddress) -> bool:
        """Not the network's, the gateway's or the broadcast address."""
        broadcast = self.version == 4 and address == self.subnet.broadcast_address
        return not broadcast and address not in (self.subnet.network_address, gateway(self.subnet))

    def in_window(self, address: IPAddress) -> bool:
        """Whether it is allocated automatically."""
        return self.first <= int(address) <= self.last

    def pick(self, users: Mapping[IPAddress, Allocation], pod_of: PodOf, where: str) -> IPAddress:
        """A free address: never-used ones first, then the least recently released. Raises SubnetFull."""
        while self._next <= self.last:
            address = type(self.subnet.network_address)(self._next)
            if address not in users and address not in self.released:
                if pod_of(address) is None:
                    return address
                self.released[address] = None
            self._next += 1
        for address in self.released:
            if pod_of(address) is None:
                return address
        kept = f", {len(self.released)} of them by objects of pods that are gone" if self.released else ""
        raise SubnetFull(
            f"{self.subnet} is full ({self.size} of {self.size}{kept})",
            where=where,
            hint="delete pods of this node, or give nodes larger subnets (a smaller SubnetLen in net-conf.json)",
        )


def _parsed(place: str, text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError as error:
        raise corrupt(place, f'"{text}" is not an address') from error
