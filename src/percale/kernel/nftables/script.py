"""Our inet tables as nft commands: what `-v` prints, and the static text as `nft` loads it. Pure; called by `table.py`.

Each line is one command, as for `nft` as root in the namespace.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address

from percale.kernel.netlink.socket import string
from percale.kernel.nftables.set_codec import DYNAMIC_MAP_SIZE
from percale.model.pod import PROTOCOLS
from percale.render.nft.objects import (
    INPUT_CHAIN,
    POLICY_TABLE,
    SIZES,
    Between,
    Chain,
    Dnat,
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
    SlotExpr,
    Statement,
    TableName,
    Transaction,
    Verdict,
)
from percale.render.nft.table_state import chunks

MOST_ELEMENTS = 20
"""In a logged command; the rest is counted."""
_EXAMPLES: dict[Field, str] = {
    "ipv4_addr": "ip daddr",
    "ipv6_addr": "ip6 daddr",
    "inet_proto": "meta l4proto",
    "inet_service": "th dport",
    "mark": "meta mark",
    "integer": "numgen random mod 2",
}
_OPERANDS: dict[Operand, str] = {"l4proto": "meta l4proto", "original dport": "ct original proto-dst"}
"""Where nft's name differs."""
_PROTOCOLS = {1: "icmp", 58: "ipv6-icmp", **{number: name.lower() for number, name in PROTOCOLS.items()}}


def digest(text: str) -> str:
    """The text's digest, for the table's comment."""
    return blake2b(text.encode(), digest_size=12).hexdigest()


def table_script(text: str, table: TableName = POLICY_TABLE) -> str:
    """Create or replace the table by this text alone, for `nft -f -`."""
    return f'add table {table}\ndelete table {table}\ntable {table} {{\ncomment "{digest(text)}"\n{text}\n}}\n'


def to_commands(
    transaction: Transaction, specs: Mapping[str, SetSpec], table: TableName = POLICY_TABLE
) -> Iterator[str]:
    """The transaction's commands in their order; `specs` are the existing sets. Long lists are cut."""
    of = str(table)
    now = {**specs, **{spec.name: spec for spec in transaction.put_sets}}
    anew_sets = {spec.name for spec in transaction.put_sets} & set(transaction.remove_sets)
    anew_chains = {chain.name for chain in transaction.put_chains} & set(transaction.remove_chains)
    for chain in transaction.put_chains:
        if chain.name not in anew_chains:
            yield _new_chain(chain.name, of)
            yield f"flush chain {of} {chain.name}"
    yield from (f"flush chain {of} {name}" for name in transaction.remove_chains)
    yield from _elements("delete", of, transaction.remove, specs)
    yield from (f"delete set {of} {name}" for name in transaction.remove_sets if name in anew_sets)
    for name in sorted(anew_chains):
        yield f"delete chain {of} {name}"
        yield _new_chain(name, of)
    yield from (_set(spec, of) for spec in transaction.put_sets)
    for chain in transaction.put_chains:
        yield from _rules(chain, of)
    yield from _elements("add", of, transaction.put, now)
    yield from (f"delete set {of} {name}" for name in transaction.remove_sets if name not in anew_sets)
    yield from (f"delete chain {of} {name}" for name in transaction.remove_chains if name not in anew_chains)


def _new_chain(name: str, of: str) -> str:
    hook = " { type filter hook input priority filter; policy accept; }" if name == INPUT_CHAIN else ""
    return f"add chain {of} {name}{hook}"


def _set(spec: SetSpec, of: str) -> str:
    kind = "map" if spec.data is not None else "set"
    data = spec.data if isinstance(spec.data, tuple) else ()
    # An integer has no size of its own: nft needs an expression of that type.
    by_example = "integer" in (*spec.key, *data)
    formatted = [_EXAMPLES[field] if by_example else field for field in spec.key]
    words = [f"{'typeof' if by_example else 'type'} {' . '.join(formatted)}"]
    if data:
        words[0] += f" : {' . '.join(_EXAMPLES[field] if by_example else field for field in data)}"
    elif spec.data is not None:
        words[0] += f" : {spec.data}"
    words += ["flags interval"] if spec.interval else []
    if spec.timeout is not None:
        words += [f"size {DYNAMIC_MAP_SIZE}", "flags dynamic,timeout", f"timeout {spec.timeout}s"]
    words += [f'comment "{spec.comment}"'] if spec.comment else []
    return f"add {kind} {of} {spec.name} {{ {'; '.join(words)}; }}"


# Rules


def _rules(chain: Chain, of: str) -> Iterator[str]:
    return (f"add rule {of} {chain.name} {format_rule(rule)}" for rule in chain.rules)


def format_rule(rule: Rule) -> str:
    """The rule in nft's syntax."""
    words = [_match(match) for match in rule.matches]
    words += ["counter"] if rule.counter else []
    words += map(_statement, rule.statements)
    words += [_verdict(rule.verdict)] if rule.verdict is not None else []
    words += [f'comment "{rule.comment}"'] if rule.comment else []
    return " ".join(words)


def _match(match: Match) -> str:
    match match:
        case Equals(operand, value):
            return f"{_operand(operand)} {_number(operand, value)}"
        case Between(operand, first, last):
            return f"{_operand(operand)} {_number(operand, first)}-{_number(operand, last)}"
        case InSet(operands, name):
            return f"{_joined(operands)} @{name}"


def _statement(statement: Statement) -> str:
    match statement:
        case SetMark(bits):
            return f"meta mark set meta mark | {bits:#x}"
        case Dnat(family, operands, name, slot):
            ip = family.nft
            key = [*map(_operand, operands), *([_slot(slot, ip)] if slot is not None else [])]
            return f"dnat {ip} to {' . '.join(key)} map @{name}"
        case MapUpdate(name, key_operands, data):
            return f"update @{name} {{ {_joined(key_operands)} : {_joined(data)} }}"


def _slot(slot: SlotExpr, ip: str) -> str:
    what = f"jhash {ip} saddr" if slot.by == "source" else f"numgen {slot.by}"
    return f"{what} mod {slot.modulus}"


def _joined(operands: Iterable[Operand]) -> str:
    return " . ".join(map(_operand, operands))


def _operand(operand: Operand) -> str:
    return _OPERANDS.get(operand, operand)


def _number(operand: Operand, value: int) -> str:
    if operand.startswith("ip "):
        return str(IPv4Address(value))
    if operand.startswith("ip6 "):
        return str(IPv6Address(value))
    return _PROTOCOLS.get(value, str(value)) if operand == "l4proto" else str(value)


def _verdict(verdict: Verdict) -> str:
    return verdict.code if verdict.chain is None else f"{verdict.code} {verdict.chain}"


# Elements


def _elements(verb: str, of: str, changes: Iterable[ElementBatch], specs: Mapping[str, SetSpec]) -> Iterator[str]:
    for elements in changes:
        spec = specs.get(elements.set)
        if spec is None or not elements.packed_keys:
            continue
        keys = chunks(elements.packed_keys, spec.key_size)
        formatted = [_key(spec, key) for key in keys[:MOST_ELEMENTS]]
        if verb == "add" and elements.verdict is not None:
            formatted = [f"{key} : {_verdict(elements.verdict)}" for key in formatted]
        elif verb == "add" and isinstance(spec.data, tuple):
            values = chunks(elements.data, spec.data_size)
            formatted = [f"{key} : {_fields(spec.data, value)}" for key, value in zip(formatted, values, strict=False)]
        more = f" # and {len(keys) - len(formatted)} more" if len(keys) > len(formatted) else ""
        yield f"{verb} element {of} {spec.name} {{ {', '.join(formatted)} }}{more}"


def _key(spec: SetSpec, key: bytes) -> str:
    if not spec.interval:
        return _fields(spec.key, key)
    half = spec.field_key_size
    pairs = zip(_values(spec.key, key[:half]), _values(spec.key, key[half:]), strict=True)
    return " . ".join(first if first == last else f"{first}-{last}" for first, last in pairs)


def _fields(fields: tuple[Field, ...], packed: bytes) -> str:
    return " . ".join(_values(fields, packed))


def _values(fields: tuple[Field, ...], packed: bytes) -> Iterator[str]:
    offset = 0
    for field in fields:
        yield _FORMATS[field](packed[offset : offset + SIZES[field]])
        offset += SIZES[field]


_FORMATS: dict[Field, Callable[[bytes], str]] = {
    "ipv4_addr": lambda value: str(IPv4Address(value)),
    "ipv6_addr": lambda value: str(IPv6Address(value)),
    "ether_addr": lambda value: value[:6].hex(":"),
    "ifname": lambda value: f'"{string(value)}"',
    "inet_proto": lambda value: _PROTOCOLS.get(value[0], str(value[0])),
    "inet_service": lambda value: str(int.from_bytes(value[:2], "big")),
    "mark": lambda value: str(struct.unpack("=I", value)[0]),
    "integer": lambda value: str(struct.unpack("=I", value)[0]),
    "bits32": lambda value: f"0x{value.hex()}",
    "bits128": lambda value: f"0x{value.hex()}",
}
