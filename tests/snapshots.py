"""Images of `table inet percale` by chance: from small pools of names, so that any two of them overlap in every way."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Literal

from percale.render.nft.objects import (
    INPUT_CHAIN,
    SIZES,
    Between,
    Chain,
    ElementBatch,
    Equals,
    Field,
    InSet,
    MapUpdate,
    Match,
    Operand,
    Rule,
    SetMark,
    SetSpec,
    Statement,
    Transaction,
    Verdict,
)
from percale.render.policy.base_chains import SET_SPECS

KEYS: tuple[tuple[Field, ...], ...] = (
    ("ipv4_addr",),
    ("ipv6_addr",),
    ("inet_service",),
    ("inet_proto",),
    ("mark",),
    ("ipv4_addr", "inet_proto", "inet_service"),
    ("ipv6_addr", "inet_proto", "inet_service"),
    ("ipv4_addr", "inet_proto", "inet_service", "integer"),
)
DATA: tuple[tuple[Field, ...] | Literal["verdict"] | None, ...] = (
    None,
    None,
    "verdict",
    ("ipv4_addr",),
    ("inet_service",),
    ("ipv6_addr", "inet_service"),
    ("mark",),
)
OPERANDS: dict[Field, tuple[Operand, ...]] = {
    "ipv4_addr": ("ip saddr", "ip daddr"),
    "ipv6_addr": ("ip6 saddr", "ip6 daddr"),
    "inet_proto": ("l4proto",),
    "inet_service": ("th sport", "th dport"),
}
KEPT: tuple[Field, ...] = ("ipv4_addr", "inet_service")
"""Of maps that packets fill."""
POOL = 12
"""Values of each field."""


def snapshot(seed: int, *, sets: int = 6, chains: int = 4) -> Transaction:
    """The same for the same seed."""
    return _Dice(Random(seed)).snapshot(sets, chains)


class _Dice:
    def __init__(self, random: Random) -> None:
        self._random = random

    def snapshot(self, sets: int, chains: int) -> Transaction:
        specs = [self._spec(f"set{number}") for number in range(sets) if self._random.random() < 0.7]
        names = [f"chain{number}" for number in range(chains) if self._random.random() < 0.7]
        filled = [spec for spec in (*specs, *SET_SPECS) if spec.timeout is None]
        elements = [part for spec in filled for part in self._elements(spec, names)]
        # A chain leads to later ones only: there is no loop.
        rules = [Chain(name, self._rules(specs, names[position + 1 :])) for position, name in enumerate(names)]
        if names and self._random.random() < 0.5:
            rules.append(Chain(INPUT_CHAIN, (Rule((), Verdict("jump", self._random.choice(names)), "input"),)))
        return Transaction(put_sets=tuple(specs), put_chains=tuple(rules), put=tuple(elements))

    # Sets

    def _spec(self, name: str) -> SetSpec:
        if self._random.random() < 0.1:
            return SetSpec(name, KEPT, data=KEPT, comment="kept", timeout=self._random.choice((60, 3600)))
        key = self._random.choice(KEYS)
        interval = self._random.random() < 0.4 and not {"mark", "integer"} & set(key)
        data = self._random.choice(DATA)
        return SetSpec(name, key, interval=interval, data=data, comment=self._random.choice(("", "", "one", "two")))

    def _elements(self, spec: SetSpec, chains: list[str]) -> list[ElementBatch]:
        keys = self._intervals(spec) if spec.interval else self._keys(spec)
        if not keys:
            return []
        if spec.data == "verdict":
            half = self._random.randrange(len(keys) + 1)
            parts = (keys[:half], keys[half:])
            return [ElementBatch(spec.name, b"".join(part), verdict=self._verdict(chains)) for part in parts if part]
        data = b"".join(b"".join(map(self._value, spec.data)) for _ in keys) if spec.data else b""
        return [ElementBatch(spec.name, b"".join(keys), data)]

    def _keys(self, spec: SetSpec) -> list[bytes]:
        count = self._random.randrange(8)
        return sorted({b"".join(map(self._value, spec.key)) for _ in range(count)})

    def _intervals(self, spec: SetSpec) -> list[bytes]:
        """No two of them overlap: each has a place of its own in the first field."""
        field, *others = spec.key
        found = []
        for place in range(0, POOL, 4):
            if self._random.random() < 0.6:
                first, last = sorted(
                    (self._random.randrange(place, place + 4), self._random.randrange(place, place + 4))
                )
                rest = [self._value(other) for other in others]
                low = b"".join((packed(field, first), *rest))
                high = b"".join((packed(field, last), *rest))
                found.append(low + high)
        return found

    def _value(self, field: Field) -> bytes:
        return packed(field, self._random.randrange(POOL))

    # Rules

    def _rules(self, specs: list[SetSpec], later: list[str]) -> tuple[Rule, ...]:
        return tuple(self._rule(specs, later, number) for number in range(self._random.randrange(5)))

    def _rule(self, specs: list[SetSpec], later: list[str], number: int) -> Rule:
        matches: list[Match] = []
        looked = [spec for spec in specs if set(spec.key) <= OPERANDS.keys() and spec.data is None]
        if looked and self._random.random() < 0.6:
            spec = self._random.choice(looked)
            matches.append(InSet(tuple(self._random.choice(OPERANDS[field]) for field in spec.key), spec.name))
        if self._random.random() < 0.4:
            matches.append(Equals("l4proto", self._random.choice((6, 17, 132))))
            matches.append(self._random.choice((Equals("th dport", 80), Between("th sport", 1024, 65535))))
        if self._random.random() < 0.2 and "ip6" not in str(matches):
            first = int(IPv4Address("10.0.0.0"))
            matches.append(Between("ip saddr", first, first + self._random.randrange(256)))
        statements = () if "ip6" in str(matches) else self._statements(specs)
        verdict = None if statements and self._random.random() < 0.5 else self._verdict(later)
        return Rule(tuple(matches), verdict, f"np:ns/name#ingress[{number}] é", self._random.random() < 0.5, statements)

    def _statements(self, specs: list[SetSpec]) -> tuple[Statement, ...]:
        found: list[Statement] = []
        if self._random.random() < 0.2:
            found.append(SetMark(self._random.choice((0x4000, 0x0020_0000))))
        kept = [spec for spec in specs if spec.timeout is not None]
        if kept and self._random.random() < 0.5:
            found.append(MapUpdate(kept[0].name, ("ip saddr", "th dport"), ("ip daddr", "th dport")))
        return tuple(found)

    def _verdict(self, chains: list[str]) -> Verdict:
        if chains and self._random.random() < 0.5:
            return Verdict(self._random.choice(("jump", "goto")), self._random.choice(chains))
        return Verdict(self._random.choice(("accept", "drop", "return")))


def packed(field: Field, number: int) -> bytes:
    """A value of the field; the largest number of the pool is the largest value there is."""
    largest = number == POOL - 1
    match field:
        case "ipv4_addr":
            value = IPv4Address("255.255.255.255" if largest else 0x0A00_0000 + number).packed
        case "ipv6_addr":
            value = IPv6Address((1 << 128) - 1 if largest else number).packed
        case "inet_proto":
            value = bytes((255 if largest else number,))
        case "inet_service":
            value = (0xFFFF if largest else number).to_bytes(2, "big")
        case "mark" | "integer":
            value = number.to_bytes(4, "little")
    return value.ljust(SIZES[field], b"\0")
