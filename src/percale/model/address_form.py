"""How addresses are written so that digits or bits mean something: `10.{room}.{env}.{host}`, `172.16.0.0/12 room:4 …`.

Either is a mixed radix number: `address = base + Σ stride·value`. So one way serves octets, decimal digits inside an octet,
hexadecimal groups and bits: an address is read from the largest stride down, and written by the sum.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import collapse_addresses, summarize_address_range
from itertools import product
from math import prod

from msgspec import Struct

from percale.errors import BadInput
from percale.model.addresses import IPAddress, IPNetwork, is_network, parse_network
from percale.model.ip_family import Family

_MOST_NETWORKS = 4096
"""Separate networks up to which a range is written out."""

_BETWEEN_BRACES = re.compile(r"\{([^{}]*)\}")
_FIELD = re.compile(r"(?P<name>[a-z][a-z0-9-]*)(?::(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?)?", re.ASCII)
_BITS = re.compile(r"(?P<name>[a-z][a-z0-9-]*):(?P<bits>[0-9]{1,3})", re.ASCII)


class Field(Struct, frozen=True):
    """A number inside an address; its values are those that it may have."""

    name: str
    stride: int
    values: range

    @property
    def count(self) -> int:
        """How many values: `len` knows no range of 64 bits."""
        return self.values.stop - self.values.start

    @property
    def bounds(self) -> str:
        return f"{self.values.start} to {self.values.stop - 1}"


class AddressForm(Struct, frozen=True, dict=True):
    """A set of addresses, and what each says; `fields` from the left to the right."""

    family: Family
    base: int
    fields: tuple[Field, ...]
    groups: tuple[Collection[int], ...]
    """The values that each octet, or each group of four hexadecimal digits, may have: the set is their product."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)

    def read(self, address: IPAddress) -> Mapping[str, int] | None:
        """The value of each field; None: the address is not in this set."""
        if address.version != self.family:
            return None
        rest, found = int(address) - self.base, {}
        for field in self.fields:
            value, rest = divmod(rest, field.stride)
            if value not in field.values:
                return None
            found[field.name] = value
        return found if rest == 0 else None

    def blocks(self, depth: int, fixed: Mapping[str, int]) -> Iterator[tuple[IPAddress, IPAddress]]:
        """First and last address for each choice of the first `depth` fields, upwards; `fixed` fields have that value."""
        fields = self._narrowed(fixed)
        low = sum(field.stride * field.values.start for field in fields[depth:])
        high = sum(field.stride * (field.values.stop - 1) for field in fields[depth:])
        for number in _numbers(fields[:depth]):
            start = self.base + number
            yield self.family.address_type(start + low), self.family.address_type(start + high)

    def networks(self, fixed: Mapping[str, int]) -> Sequence[IPNetwork]:
        """The addresses with these values, as few networks as there can be.

        Raises BadInput for a value that does not fit, and where the networks are very many.
        """
        fields = self._narrowed(fixed)
        depth = _depth_of_gaps(fields)
        if prod(field.count for field in fields[:depth]) > _MOST_NETWORKS:
            raise BadInput("its addresses are too many separate networks", hint="end it with a field, such as {host}")
        found: list[IPNetwork] = []
        for first, last in self.blocks(depth, fixed):
            found += networks_between(first, last)
        return list(collapse_addresses(found))  # type: ignore[type-var]

    def _narrowed(self, fixed: Mapping[str, int]) -> Sequence[Field]:
        fields = []
        for field in self.fields:
            value = fixed.get(field.name)
            if value is None:
                fields.append(field)
            elif value in field.values:
                fields.append(Field(field.name, field.stride, range(value, value + 1)))
            else:
                raise BadInput(f"{field.name} {value} does not fit: here it is {field.bounds}")
        return fields

    def common_address(self, other: AddressForm) -> IPAddress | None:
        """The lowest address that both have."""
        if self.family != other.family:
            return None
        number = 0
        for ours, theirs in zip(self.groups, other.groups, strict=True):
            common = next((value for value in sorted(ours) if value in theirs), None)
            if common is None:
                return None
            number = number << _bits(self.family) | common
        return self.family.address_type(number)


def networks_between(first: IPAddress, last: IPAddress) -> list[IPNetwork]:
    """As few as there can be; both ends are of one family, and among them."""
    return list(summarize_address_range(first, last))


def _numbers(fields: Sequence[Field]) -> Iterator[int]:
    """What each choice of their values adds to an address, upwards; one after the other, as there may be very many."""
    if not fields:
        yield 0
        return
    for value in fields[0].values:
        for rest in _numbers(fields[1:]):
            yield fields[0].stride * value + rest


def _depth_of_gaps(fields: Sequence[Field]) -> int:
    """How many fields differ between blocks without a gap: those below fill their stride."""
    filled = 1
    for depth in range(len(fields), 0, -1):
        field = fields[depth - 1]
        if field.stride != filled:
            return depth
        filled = field.stride * field.count
        if field.values.start:
            return depth - 1
    return 0


def parse_form(text: str) -> AddressForm:
    """`10.{room}.{env}.{host}`, `10.4{env:1}.{host}.0`, `fd00:{room}:{env}::{host}`.

    A field alone is a whole octet or group; `{env:2}` is two digits, decimal in IPv4 and hexadecimal in IPv6; `{env:1-9}` has
    these values. Raises ValueError.
    """
    parts = _BETWEEN_BRACES.split(text)
    written = "".join(parts[::2])
    family = Family.IPV6 if ":" in written else Family.IPV4
    if not written or set(written) - set("0123456789abcdefABCDEF:" if family == Family.IPV6 else "0123456789."):
        raise ValueError(f'"{text}" is no address with {{fields}}, such as 10.{{room}}.{{env}}.{{host}}')
    groups = _groups(parts, family, text)
    base, fields, allowed = 0, [], []
    for index, group in enumerate(groups):
        shift = _bits(family) * (len(groups) - 1 - index)
        value, found = _group(group, family, index + 1)
        base |= value << shift
        fields += [Field(each.name, each.stride << shift, each.values) for each in found]
        allowed.append(_values(value, found))
    return _checked(AddressForm(family, base, tuple(fields), tuple(allowed)), text)


def parse_bits(text: str) -> AddressForm:
    """`172.16.0.0/12 room:4 env:4 node:4 pod:8`: a network, and fields of so many bits, which fill it. Raises ValueError."""
    first, *words = text.split() or [""]
    if not is_network(first):
        raise ValueError(f'"{first}" is not a network in CIDR form, such as 172.16.0.0/12')
    network = parse_network(first)
    if str(network.network_address) != first.partition("/")[0]:
        raise ValueError(f"{first} has bits behind its prefix; the network is {network}")
    matches = [_BITS.fullmatch(word) for word in words]
    bits = [int(match["bits"]) if match else 0 for match in matches]
    if wrong := next((word for word, number in zip(words, bits, strict=True) if not number), None):
        raise ValueError(f'"{wrong}" is no field with its bits, such as room:4')
    left = network.max_prefixlen - network.prefixlen
    if sum(bits) != left:
        raise ValueError(f"the fields have {sum(bits)} bits, and {network} leaves {left}")
    fields = []
    for match, number in zip(matches, bits, strict=True):
        assert match is not None
        left -= number
        fields.append(Field(match["name"], 1 << left, range(1 << number)))
    form = network_form(network)
    return _checked(AddressForm(form.family, form.base, tuple(fields), form.groups), text)


def network_form(network: IPNetwork) -> AddressForm:
    """All addresses of a network, with one field that has no meaning."""
    family = Family(network.version)
    number, left = int(network.network_address), network.max_prefixlen - network.prefixlen
    groups = []
    for shift in range(network.max_prefixlen - _bits(family), -1, -_bits(family)):
        first = number >> shift & (1 << _bits(family)) - 1
        groups.append(range(first, first + (1 << min(max(left - shift, 0), _bits(family)))))
    return AddressForm(family, number, (Field("address", 1, range(1 << left)),), tuple(groups))


def _groups(parts: Sequence[str], family: Family, text: str) -> list[list[str | Field]]:
    """Each octet or group as its digits and fields; `::` is written out."""
    separator, count = (":", 8) if family == Family.IPV6 else (".", 4)
    groups: list[list[str | Field]] = [[]]
    for index, part in enumerate(parts):
        if index % 2:
            groups[-1].append(_field(part, family))
            continue
        first, *others = part.split(separator)
        groups[-1] += [first] if first else []
        groups += [[each] if each else [] for each in others]
    if family == Family.IPV6 and "::" in "".join(parts[::2]):
        groups = groups[1:] if text.startswith("::") else groups[:-1] if text.endswith("::") else groups
        hole = groups.index([]) if [] in groups else 0
        groups[hole : hole + 1] = [["0"] for _ in range(count - len(groups) + 1)]
    if len(groups) != count or [] in groups:
        raise ValueError(f'"{text}" has not the {count} parts of an IPv{family} address')
    return groups


def _field(text: str, family: Family) -> Field:
    """Its stride is the number of its digits, which `_group` makes one of; 0: it has a group for itself."""
    match = _FIELD.fullmatch(text)
    if match is None:
        raise ValueError(f'"{{{text}}}" is no field, such as {{room}}, {{room:2}} or {{room:1-9}}')
    name, first, last = match["name"], match["first"], match["last"]
    if first is None:
        return Field(name, 0, range(1 << _bits(family)))
    if last is None:
        if not 1 <= int(first) <= 4:
            raise ValueError(f'"{{{text}}}": a field has 1 to 4 digits')
        return Field(name, int(first), range(_radix(family) ** int(first)))
    if int(first) > int(last):
        raise ValueError(f'"{{{text}}}": the first value is above the last')
    return Field(
        name, len(f"{int(last):x}" if family == Family.IPV6 else str(int(last))), range(int(first), int(last) + 1)
    )


def _group(tokens: Sequence[str | Field], family: Family, number: int) -> tuple[int, list[Field]]:
    """The value of its digits, and its fields from the left to the right."""
    value, weight, fields = 0, 1, []
    for token in reversed(tokens):
        if isinstance(token, str):
            value += int(token, _radix(family)) * weight
            weight *= _radix(family) ** len(token)
            continue
        if token.stride == 0 and len(tokens) > 1:
            raise ValueError(f"{{{token.name}}} shares its part: write how many digits it has, {{{token.name}:1}}")
        fields.append(Field(token.name, weight, token.values))
        weight *= _radix(family) ** token.stride
    highest = value + sum(field.stride * (field.values.stop - 1) for field in fields)
    most = (1 << _bits(family)) - 1
    if highest > most:
        shown = (f"{highest:x}", f"{most:x}") if family == Family.IPV6 else (str(highest), str(most))
        raise ValueError(f"part {number} goes up to {shown[0]}, above {shown[1]}; bound a field, such as {{room:0-1}}")
    return value, fields[::-1]


def _values(value: int, fields: Sequence[Field]) -> Collection[int]:
    if len(fields) == 1 and fields[0].stride == 1:
        return range(value + fields[0].values.start, value + fields[0].values.stop)
    sums = product(*([field.stride * each for each in field.values] for field in fields))
    return frozenset(value + sum(each) for each in sums)


def _checked(form: AddressForm, text: str) -> AddressForm:
    if twice := next((name for name in form.names if form.names.count(name) > 1), None):
        raise ValueError(f'"{text}" has the field {twice} twice')
    return form


def _bits(family: Family) -> int:
    """Of an octet, or of a group of hexadecimal digits."""
    return 16 if family == Family.IPV6 else 8


def _radix(family: Family) -> int:
    return 16 if family == Family.IPV6 else 10
