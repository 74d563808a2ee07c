"""A plan in use: what an address says, and which address or network is the next free one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import msgspec
from msgspec import Struct

from percale.errors import BadInput
from percale.model.address_form import AddressForm, networks_between
from percale.model.address_plan import PODS, SERVICES, AddressPlanSpec, PlannedRange
from percale.model.addresses import IPAddress, IPNetwork, parse_network
from percale.suggestion import suggest

NODE = "node"
"""The field that numbers the nodes in the addresses of pods."""

_MOST_TRIED = 100_000
"""Addresses or networks that are looked at for a free one."""


class FieldValue(Struct, frozen=True):
    """A field of an address; `name` is what the plan calls this value."""

    field: str
    value: int
    name: str | None

    def __str__(self) -> str:
        return f"{self.field} {self.value}" + (f" ({self.name})" if self.name else "")


class Meaning(Struct, frozen=True):
    """What an address says; of a network the fields that all its addresses have in common."""

    for_: str = msgspec.field(name="for")
    fields: tuple[FieldValue, ...]

    def __str__(self) -> str:
        return f"{self.for_}: {', '.join(map(str, self.fields))}"


class Plan:
    """The spec with its names both ways."""

    def __init__(self, spec: AddressPlanSpec) -> None:
        self.spec = spec

    def meaning(self, network: IPNetwork) -> Meaning | None:
        """Of an address as a network of its own, or of a network; None: it is not of the plan."""
        for each in self.spec.ranges:
            first, last = (each.addresses.read(network[index]) for index in (0, -1))
            if first is not None and last is not None:
                common = {name: value for name, value in first.items() if last[name] == value}
                return Meaning(each.for_, tuple(self._named(*item) for item in common.items()))
        return None

    def words(self, each: PlannedRange, address: IPAddress) -> str:
        """What an address of this range says."""
        values = each.addresses.read(address) or {}
        return str(Meaning(each.for_, tuple(self._named(*item) for item in values.items())))

    def _named(self, field: str, value: int) -> FieldValue:
        return FieldValue(field, value, self.spec.named_values.get(field, {}).get(value))

    def ranges_for(self, purpose: str) -> Sequence[PlannedRange]:
        """Those for this, one for each family. Raises BadInput."""
        found = [each for each in self.spec.ranges if each.for_ == purpose]
        if not found:
            known = dict.fromkeys(each.for_ for each in self.spec.ranges)
            raise BadInput(f"the plan has no range for {purpose}", hint=suggest(purpose, known))
        return found

    def value(self, field: str, text: str) -> int:
        """A value that somebody wrote as a number or by its name. Raises BadInput."""
        if text.isascii() and text.isdecimal():
            return int(text)
        names = {name: value for value, name in self.spec.named_values.get(field, {}).items()}
        if text not in names:
            hint = suggest(text, names) if names else "write its number"
            raise BadInput(f"no {field} is called {text}", hint=hint)
        return names[text]

    def next_free(self, each: PlannedRange, fixed: Mapping[str, int], taken: Iterable[IPNetwork]) -> IPNetwork | None:
        """The lowest address (of pods: a node's subnet; of Services: a cluster's network) with these values, of which
        nothing is taken or reserved. None: all are. Raises BadInput for a value that does not fit, or very many in use.
        """
        for field in fixed:
            if each.addresses.field(field) is None:
                raise BadInput(f"{each.for_} has no field {field}", hint=suggest(field, each.addresses.names))
        used = _Intervals(
            network
            for network in (*taken, *map(parse_network, self.spec.reserve))
            if network.version == each.addresses.family
        )
        blocks = each.addresses.blocks(unit_depth(each.for_, each.addresses), fixed)
        for first, last in islice(blocks, _MOST_TRIED):
            if not used.overlap(int(first), int(last)) and not (first == last and _is_end(each, first)):
                return networks_between(first, last)[0]
        if next(blocks, None) is not None:
            raise BadInput(f"the first {_MOST_TRIED:,} of {each.for_} are in use", hint="give more fields")
        return None


class _Intervals:
    """Merged ranges of addresses, as numbers."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in sorted((int(network[0]), int(network[-1])) for network in networks):
            if self._ends and start <= self._ends[-1] + 1:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def overlap(self, first: int, last: int) -> bool:
        index = bisect_right(self._starts, last) - 1
        return index >= 0 and self._ends[index] >= first


def unit_depth(purpose: str, form: AddressForm) -> int:
    """How many fields say which unit of a range it is; those behind count what is inside."""
    if purpose == PODS and NODE in form.names:
        return form.names.index(NODE) + 1
    return len(form.fields) - (1 if purpose in (PODS, SERVICES) else 0)


def first_unit(each: PlannedRange) -> IPNetwork | None:
    """The lowest node's subnet, or cluster's service network; None where its addresses are no network."""
    first, last = next(iter(each.addresses.blocks(unit_depth(each.for_, each.addresses), {})))
    networks = networks_between(first, last)
    return networks[0] if len(networks) == 1 else None


def _is_end(each: PlannedRange, address: IPAddress) -> bool:
    """Whether no host may have it: the first address of a network whose hosts the last field counts, and in IPv4 the last."""
    last, values = each.addresses.fields[-1], each.addresses.read(address)
    assert values is not None
    size, value = last.count, values[last.name]
    if last.stride != 1 or last.values.start or size < 4 or size & (size - 1):
        return False
    return value == 0 or (value == size - 1 and address.version == 4)
