"""nfnetlink expressions, of which rules consist; pure. Combined by `rule_codec.py`.

Each is encoded byte for byte as the kernel dumps it: its order of attributes, its register numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from percale.kernel.netlink.socket import attribute, attributes, string, text, u32, u32_network
from percale.render.nft.objects import Operand, SlotExpr, Verdict

_LIST_ELEMENT = 1
_NAME, _DATA = 1, 2
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2

_CODES = {"drop": 0, "accept": 1, "jump": -3, "goto": -4, "return": -5}
_CODE_NAMES = {code & 0xFFFFFFFF: name for name, code in _CODES.items()}

_BASES: dict[str, int] = {"network": 1, "transport": 2}
_MARK, _PROTOCOL_FAMILY, _L4_PROTOCOL = 3, 15, 16
_DESTINATION_PORT = 12
_ORIGINAL = b"\0"
FAMILIES = {"ip": 2, "ip6": 10}
_FAMILY_OF_VERSION = {4: 2, 6: 10}
EQUAL, AT_MOST, AT_LEAST = 0, 3, 5
_INCREMENT, _RANDOM = 0, 1
_JENKINS = 0
_DNAT = 1
_MAP_ADDRESSES, _PORT_SPECIFIED = 1, 2
_UPDATE = 1


class PacketField(NamedTuple):
    """Where an operand is: at an offset in a header of the packet, or under a key of meta or ct."""

    where: Literal["network", "transport", "meta", "ct"]
    offset: int
    size: int

    @property
    def words(self) -> int:
        """The number of 32-bit registers that it takes."""
        return (self.size + 3) // 4


FIELDS: dict[Operand, PacketField] = {
    "ip saddr": PacketField("network", 12, 4),
    "ip daddr": PacketField("network", 16, 4),
    "ip6 saddr": PacketField("network", 8, 16),
    "ip6 daddr": PacketField("network", 24, 16),
    "l4proto": PacketField("meta", _L4_PROTOCOL, 1),
    "th sport": PacketField("transport", 0, 2),
    "th dport": PacketField("transport", 2, 2),
    "original dport": PacketField("ct", _DESTINATION_PORT, 2),
}
_OPERANDS = {field: operand for operand, field in FIELDS.items()}


# Verdicts


def encode_verdict(verdict: Verdict) -> bytes:
    """The data of a verdict, in rules and in elements of verdict maps."""
    parts = u32_network(_VERDICT_CODE, _CODES[verdict.code] & 0xFFFFFFFF)
    if verdict.chain is not None:
        parts += text(_VERDICT_CHAIN, verdict.chain)
    return attribute(_DATA_VERDICT, parts)


def decode_verdict(data: dict[int, bytes]) -> Verdict | None:
    """The verdict in a data attribute; None for one that we never use."""
    found = attributes(data.get(_DATA_VERDICT, b""))
    code = _CODE_NAMES.get(_network(found.get(_VERDICT_CODE, b"")))
    if code is None or _VERDICT_CODE not in found:
        return None
    return Verdict(code, string(found[_VERDICT_CHAIN]) if _VERDICT_CHAIN in found else None)  # type: ignore[arg-type]


# Writing. Words are registers of 32 bits, from 0 on.


def register(word: int) -> int:
    """The register that begins with this word: a 128-bit one where it is aligned, as the kernel dumps it."""
    return 8 + word if word % 4 else 1 + word // 4


def _expression(name: str, *parts: bytes) -> bytes:
    return attribute(_LIST_ELEMENT, text(_NAME, name) + attribute(_DATA, b"".join(parts)))


LOAD_FAMILY = _expression("meta", u32_network(2, _PROTOCOL_FAMILY), u32_network(1, register(0)))
COUNTER = _expression("counter", attribute(1, bytes(8)), attribute(2, bytes(8)))


@lru_cache(maxsize=256)
def load(operand: Operand, word: int) -> bytes:
    """Load it into the registers from `word` on."""
    where, offset, size = FIELDS[operand]
    into = u32_network(1, register(word))
    if where == "meta":
        return _expression("meta", u32_network(2, offset), into)
    if where == "ct":
        return _expression("ct", into, u32_network(2, offset), attribute(3, _ORIGINAL))
    return _expression("payload", into, u32_network(2, _BASES[where]), u32_network(3, offset), u32_network(4, size))


@lru_cache(maxsize=4096)
def compare(how: int, value: int, size: int) -> bytes:
    """Break unless the first register compares so."""
    data = attribute(3, attribute(_DATA_VALUE, value.to_bytes(size, "big")))
    return _expression("cmp", u32_network(1, register(0)), u32_network(2, how), data)


@lru_cache(maxsize=4096)
def look_up(name: str, *, translate: bool = False) -> bytes:
    """Break unless the registers are a key of the set; `translate` loads its data."""
    into = u32_network(3, register(0)) if translate else b""
    return _expression("lookup", text(1, name), u32_network(2, register(0)), into, u32_network(5, 0))


@lru_cache(maxsize=4096)
def decide(verdict: Verdict) -> bytes:
    """The verdict."""
    return _expression("immediate", u32_network(1, 0), attribute(2, encode_verdict(verdict)))


def set_mark(bits: int) -> bytes:
    """Set these bits of the packet's mark."""
    return b"".join(
        (
            _expression("meta", u32_network(2, _MARK), u32_network(1, register(0))),
            _expression(
                "bitwise",
                u32_network(1, register(0)),
                u32_network(2, register(0)),
                u32_network(3, 4),
                u32_network(6, 0),
                attribute(4, u32(_DATA_VALUE, ~bits & 0xFFFFFFFF)),
                attribute(5, u32(_DATA_VALUE, bits)),
            ),
            _expression("meta", u32_network(2, _MARK), u32_network(3, register(0))),
        )
    )


def load_slot(slot: SlotExpr, word: int, source: Operand) -> bytes:
    """Load a number below the modulus into `word`; a hash of the `source` needs the registers after it."""
    if slot.by == "source":
        return load(source, word + 1) + _expression(
            "hash",
            u32_network(1, register(word + 1)),
            u32_network(2, register(word)),
            u32_network(3, FIELDS[source].size),
            u32_network(4, slot.modulus),
            u32_network(7, _JENKINS),
        )
    kind = _INCREMENT if slot.by == "inc" else _RANDOM
    return _expression(
        "numgen", u32_network(1, register(word)), u32_network(2, slot.modulus), u32_network(3, kind), u32_network(4, 0)
    )


def translate(version: int) -> bytes:
    """Destination NAT to the address in the first registers and the port after it."""
    address, port = register(0), register(1 if version == 4 else 4)
    return _expression(
        "nat",
        u32_network(1, _DNAT),
        u32_network(2, _FAMILY_OF_VERSION[version]),
        u32_network(3, address),
        u32_network(4, address),
        u32_network(5, port),
        u32_network(6, port),
        u32_network(7, _MAP_ADDRESSES | _PORT_SPECIFIED),
    )


def update_map(name: str, word: int) -> bytes:
    """Add or renew a map's element: its key is in the first registers, its data begins at `word`."""
    return _expression(
        "dynset",
        u32_network(4, register(0)),
        u32_network(5, register(word)),
        u32_network(3, _UPDATE),
        text(1, name),
        attribute(6, bytes(8)),
        u32_network(9, 0),
    )


# Reading

Decoded: TypeAlias = tuple[str, object]

_COUNTER_HEAD = attribute(_NAME, b"counter\0")


def is_counter(entry: bytes) -> bool:
    """A counter, whatever its value."""
    return entry.startswith(_COUNTER_HEAD)


@lru_cache(maxsize=8192)
def decode(entry: bytes) -> Decoded:
    """An expression's kind and operand, exact enough to encode it again and compare.

    Raises LookupError or ValueError for a foreign one.
    """
    head = attributes(entry)
    name, data = string(head[_NAME]), attributes(head[_DATA])
    return _DECODERS[name](data)


def _decode_meta(data: dict[int, bytes]) -> Decoded:
    match _network(data[2]):
        case key if key == _MARK:
            return ("set mark" if 3 in data else "mark"), None
        case key if key == _PROTOCOL_FAMILY:
            return "family", None
        case key:
            return "operand", _OPERANDS[PacketField("meta", key, 1)]


def _decode_payload(data: dict[int, bytes]) -> Decoded:
    where: Literal["network", "transport"] = "network" if _network(data[2]) == _BASES["network"] else "transport"
    return "operand", _OPERANDS[PacketField(where, _network(data[3]), _network(data[4]))]


def _decode_verdict(data: dict[int, bytes]) -> Decoded:
    verdict = decode_verdict(attributes(data[2]))
    if verdict is None:
        raise ValueError(data)
    return "verdict", verdict


def _decode_slot(data: dict[int, bytes]) -> Decoded:
    return "slot", SlotExpr("inc" if _network(data[3]) == _INCREMENT else "random", _network(data[2]))


_DECODERS: dict[str, Callable[[dict[int, bytes]], Decoded]] = {
    "meta": _decode_meta,
    "payload": _decode_payload,
    "ct": lambda data: ("operand", _OPERANDS[PacketField("ct", _network(data[2]), 2)]),
    "cmp": lambda data: ("compare", (_network(data[2]), _network(attributes(data[3])[_DATA_VALUE]))),
    "lookup": lambda data: ("look up in map" if 3 in data else "look up", string(data[1])),
    "immediate": _decode_verdict,
    "bitwise": lambda data: ("bits", int.from_bytes(attributes(data[5])[_DATA_VALUE], sys.byteorder)),
    "numgen": _decode_slot,
    "hash": lambda data: ("slot", SlotExpr("source", _network(data[4]))),
    "nat": lambda data: ("translate", 4 if _network(data[2]) == FAMILIES["ip"] else 6),
    "dynset": lambda data: ("update map", (string(data[1]), _network(data[5]))),
}


def _network(payload: bytes) -> int:
    return int.from_bytes(payload, "big")
