"""Pod addresses of this node's subnets, remembered on disk. Called by cni (ADD, DEL, GC) and by the agent's start.

    allocate ─▶ pick per family ─▶ journal line ─▶ memory        a failure on the way changes nothing
                   never used, in order; then the one released longest ago

One caller at a time; a call blocks for one write to the page cache (some microseconds).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from percale.errors import AddressRefused, StateError, SubnetFull
from percale.ipam.address_journal import Allocated, Journal, Record, Released, Rested, corrupt
from percale.ipam.subnet_plan import Network, NodeSubnets

Address: TypeAlias = IPv4Address | IPv6Address

_WINDOW = 1 << 16
"""Addresses of a subnet that are handed out by themselves; any other of a larger subnet can be asked for."""
_STALE_LINES = 4096
"""So many lines that say nothing any more are kept before the journal is rewritten."""


class Owner(NamedTuple):
    """One interface of one container (CNI's container id and IFNAME)."""

    container: str
    ifname: str

    def __str__(self) -> str:
        return f"container {self.container} {self.ifname}"


class Allocation(Struct, frozen=True):
    """What an owner has: at most one address per family, IPv4 first. `pod` is `namespace/name` where known."""

    owner: Owner
    addresses: tuple[Address, ...]
    pod: str | None = None

    def __str__(self) -> str:
        return f"pod {self.pod}" if self.pod else str(self.owner)


def gateway(subnet: Network) -> Address:
    """The first host address: the bridge's own in bridge wiring, reserved in any."""
    return subnet.network_address + 1


class AddressPool:
    """Raises StateError when the journal cannot be read or written; then nothing has changed."""

    def __init__(self, path: Path, node: str, subnets: NodeSubnets) -> None:
        self._where = f"node {node}"
        self._families = tuple(_Family(subnet) for subnet in subnets)
        self._allocations: dict[Owner, Allocation] = {}
        self._users: dict[Address, Allocation] = {}
        self._journal = Journal(path)
        self._lines = 0
        for place, record in self._journal.replay():
            self._replay(place, record)
            self._lines += 1
        self._compact(slack=0)

    @property
    def allocations(self) -> Mapping[Owner, Allocation]:
        """Everything in use."""
        return MappingProxyType(self._allocations)

    def strays(self) -> list[Allocation]:
        """Allocations of an earlier subnet of this node: kept until released, unreachable from other nodes."""
        return [
            allocation
            for allocation in self._allocations.values()
            if any(self._family(address) is None for address in allocation.addresses)
        ]

    def capacity(self, subnet: Network) -> int:
        """How many addresses of this subnet are handed out unasked."""
        return next(family.size for family in self._families if family.subnet == subnet)

    def allocate(self, owner: Owner, *, pod: str | None = None, wanted: Iterable[Address] = ()) -> tuple[Address, ...]:
        """An address of each family; the same again for an owner that has them. `wanted` ones are given or refused.

        Raises AddressRefused, SubnetFull, StateError.
        """
        asked = self._asked(wanted)
        held = self._allocations.get(owner)
        if held is not None:
            if refused := [address for address in asked.values() if address not in held.addresses]:
                raise AddressRefused(f"{refused[0]} was asked for, but {held} already has others", where=self._where)
            return held.addresses
        addresses = tuple(self._choose(family, asked.get(family.version)) for family in self._families)
        self._journal.append([Allocated(*owner, tuple(map(str, addresses)), pod)])
        self._take(Allocation(owner, addresses, pod))
        self._grown(1)
        return addresses

    def release(self, owner: Owner) -> tuple[Address, ...]:
        """What the owner had; () when it had nothing."""
        return tuple(address for allocation in self._release([owner]) for address in allocation.addresses)

    def gc(self, keep: Iterable[Owner]) -> list[Allocation]:
        """Release all owners but these; returns what was released."""
        kept = set(keep)
        return self._release([owner for owner in self._allocations if owner not in kept])

    def close(self) -> None:
        """Give back the journal's descriptor."""
        self._journal.close()

    def _asked(self, wanted: Iterable[Address]) -> dict[int, Address]:
        """The wanted addresses by IP version, each one checked."""
        asked: dict[int, Address] = {}
        for address in wanted:
            if asked.setdefault(address.version, address) != address:
                raise AddressRefused(
                    f"two IPv{address.version} addresses asked for, {asked[address.version]} and {address}",
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
        return asked

    def _choose(self, family: _Family, asked: Address | None) -> Address:
        if asked is None:
            return family.pick(self._users, self._where)
        if (user := self._users.get(asked)) is not None:
            raise AddressRefused(f"{asked} was asked for, but {user} has it", where=self._where)
        return asked

    def _release(self, owners: Iterable[Owner]) -> list[Allocation]:
        released = [allocation for owner in owners if (allocation := self._allocations.get(owner)) is not None]
        if released:
            self._journal.append([Released(*allocation.owner) for allocation in released])
            for allocation in released:
                self._give_back(allocation)
            self._grown(len(released))
        return released

    def _take(self, allocation: Allocation) -> None:
        self._allocations[allocation.owner] = allocation
        for address in allocation.addresses:
            self._users[address] = allocation
            if (family := self._family(address)) is not None:
                family.resting.pop(address, None)

    def _give_back(self, allocation: Allocation) -> None:
        del self._allocations[allocation.owner]
        for address in allocation.addresses:
            del self._users[address]
            self._rest(address)

    def _rest(self, address: Address) -> None:
        family = self._family(address)
        if family is not None and family.in_window(address):
            family.resting[address] = None

    def _family(self, address: Address) -> _Family | None:
        """The family in whose subnet the address lies."""
        return next((family for family in self._families if address in family.subnet), None)

    def _replay(self, place: str, record: Record) -> None:
        match record:
            case Rested():
                self._rest(_parsed(place, record.address))
            case Released():
                allocation = self._allocations.get(Owner(record.container, record.ifname))
                if allocation is None:
                    raise corrupt(place, f"{Owner(record.container, record.ifname)} releases what it never had")
                self._give_back(allocation)
            case Allocated():
                owner = Owner(record.container, record.ifname)
                addresses = tuple(_parsed(place, address) for address in record.addresses)
                if owner in self._allocations:
                    raise corrupt(place, f"{owner} has addresses already")
                for address in addresses:
                    if address in self._users:
                        raise corrupt(place, f"{address} is in use by {self._users[address]} already")
                self._take(Allocation(owner, addresses, record.pod))

    def _grown(self, lines: int) -> None:
        self._lines += lines
        self._compact(slack=_STALE_LINES)

    def _compact(self, slack: int) -> None:
        """Write the journal anew when it has more than `slack` lines that say nothing any more."""
        live = len(self._allocations) + sum(len(family.resting) for family in self._families)
        if self._lines > live + slack:
            with suppress(StateError):  # the long journal is as true as the short one: tidying can wait for room
                self._journal.rewrite(self._records())
                self._lines = live

    def _records(self) -> Iterator[Record]:
        for family in self._families:
            yield from (Rested(str(address)) for address in family.resting)
        for allocation in self._allocations.values():
            yield Allocated(*allocation.owner, tuple(map(str, allocation.addresses)), allocation.pod)


class _Family:
    """One family's subnet: what is free, and in which order it is handed out."""

    def __init__(self, subnet: Network) -> None:
        self.subnet = subnet
        self.version = subnet.version
        self.first = int(subnet.network_address) + 2
        broadcast = 1 if isinstance(subnet, IPv4Network) else 0
        self.last = min(int(subnet.broadcast_address) - broadcast, self.first + _WINDOW - 1)
        self.size = self.last - self.first + 1
        self.resting: OrderedDict[Address, None] = OrderedDict()
        self._next = self.first

    def is_assignable(self, address: Address) -> bool:
        """Not the network's, the gateway's or the broadcast address."""
        broadcast = self.version == 4 and address == self.subnet.broadcast_address
        return not broadcast and address not in (self.subnet.network_address, gateway(self.subnet))

    def in_window(self, address: Address) -> bool:
        """One of those that are handed out unasked."""
        return self.first <= int(address) <= self.last

    def pick(self, users: Mapping[Address, Allocation], where: str) -> Address:
        """A free address; never-used ones first, then the one that was released longest ago. Raises SubnetFull."""
        while self._next <= self.last:
            address = type(self.subnet.network_address)(self._next)
            if address not in users and address not in self.resting:
                return address
            self._next += 1
        for address in self.resting:
            return address
        raise SubnetFull(
            f"{self.subnet} is full ({self.size} of {self.size})",
            where=where,
            hint="delete pods of this node, or give nodes larger subnets (a smaller SubnetLen in net-conf.json)",
        )


def _parsed(place: str, text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise corrupt(place, f'"{text}" is not an address') from error
