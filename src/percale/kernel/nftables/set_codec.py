"""Set specs as nfnetlink attributes, both ways; pure. Written for `batch.py`, read for `dump.py`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from percale.kernel.netlink.socket import attribute, nested, text, u32_network
from percale.kernel.nftables.rule_codec import decode_comment, userdata_items
from percale.render.nft.objects import SIZES, Field, SetSpec

SET_NAME, SET_FLAGS, _KEY_TYPE, _KEY_SIZE, _DATA_TYPE, _DATA_SIZE = 2, 3, 4, 5, 6, 7
_DESCRIPTION, SET_ID, _TIMEOUT, _USERDATA = 9, 10, 11, 13
_DESCRIPTION_SIZE, _DESCRIPTION_CONCAT, _DESCRIPTION_FIELD, _FIELD_SIZE = 1, 2, 1, 1

ANONYMOUS, INTERVAL, MAP, TIMEOUT, DYNAMIC, CONCATENATION = 0x01, 0x04, 0x08, 0x10, 0x20, 0x80
_VERDICTS = 0xFFFFFF00
"""The data type of verdicts."""

_TYPES: dict[Field, int] = {
    "integer": 4,
    "ipv4_addr": 7,
    "ipv6_addr": 8,
    "ether_addr": 9,
    "inet_proto": 12,
    "inet_service": 13,
    "mark": 19,
    "ifname": 41,
    "bits32": 4,
    "bits128": 4,
}
"""nft's numbers of data types."""
_FIELDS = {number: field for field, number in _TYPES.items() if not field.startswith("bits")}
_TYPE_BITS = 6
"""Of each field in the number of a concatenation's type."""
_TRUE_SIZES: dict[Field, int] = {"ether_addr": 6, "inet_proto": 1, "inet_service": 2}
"""Of fields that are shorter than their place in a concatenation."""
_IN_HOST_ORDER = frozenset({"mark", "integer"})

DYNAMIC_MAP_SIZE = 262_144
"""The size of a packet-filled map, in elements."""


def true_size(fields: tuple[Field, ...]) -> int:
    """Bytes of a key or of data in the kernel: a field by itself has no padding."""
    if len(fields) == 1:
        return _TRUE_SIZES.get(fields[0], SIZES[fields[0]])
    return sum(SIZES[field] for field in fields)


# Writing


def encode(spec: SetSpec, number: int) -> bytes:
    """The attributes of NEWSET; `number` is unique among the sets of the batch."""
    parts = [text(SET_NAME, spec.name)]
    if flags := _flags(spec):
        parts.append(u32_network(SET_FLAGS, flags))
    parts += (u32_network(_KEY_TYPE, _type_number(spec.key)), u32_network(_KEY_SIZE, true_size(spec.key)))
    if spec.data == "verdict":
        parts.append(u32_network(_DATA_TYPE, _VERDICTS))
    elif spec.data is not None:
        parts += (u32_network(_DATA_TYPE, _type_number(spec.data)), u32_network(_DATA_SIZE, true_size(spec.data)))
    if spec.interval and len(spec.key) > 1:
        sizes = (u32_network(_FIELD_SIZE, true_size((field,))) for field in spec.key)
        fields = b"".join(nested(_DESCRIPTION_FIELD, size) for size in sizes)
        parts.append(nested(_DESCRIPTION, nested(_DESCRIPTION_CONCAT, fields)))
    parts.append(u32_network(SET_ID, number))
    if spec.timeout is not None:
        parts.append(nested(_DESCRIPTION, u32_network(_DESCRIPTION_SIZE, DYNAMIC_MAP_SIZE)))
        parts.append(attribute(_TIMEOUT, (spec.timeout * 1000).to_bytes(8, "big")))
    parts.append(attribute(_USERDATA, _userdata(spec)))
    return b"".join(parts)


def _flags(spec: SetSpec) -> int:
    """The set's flags."""
    flags = INTERVAL if spec.interval else 0
    flags |= CONCATENATION if spec.interval and len(spec.key) > 1 else 0
    flags |= MAP if spec.data is not None else 0
    return flags | (TIMEOUT | DYNAMIC if spec.timeout is not None else 0)


def _type_number(fields: tuple[Field, ...]) -> int:
    number = 0
    for field in fields:
        number = number << _TYPE_BITS | _TYPES[field]
    return number


# User data, which only nft reads: byte orders, example expressions of key and data, the comment. Type, length, value.

_KEY_ORDER, _DATA_ORDER, _KEY_EXAMPLE, _DATA_EXAMPLE, _COMMENT = 0, 1, 3, 4, 7
_MIXED, _HOST_ORDER, _NETWORK_ORDER = 0, 1, 2
_VERDICT, _CONSTANT, _PAYLOAD, _META, _CONCATENATED, _NUMBER_GENERATOR = 1, 4, 7, 9, 13, 23

_EXAMPLES: dict[Field, tuple[int, tuple[int, ...]]] = {
    "ipv4_addr": (_PAYLOAD, (12, 12)),
    "ipv6_addr": (_PAYLOAD, (13, 9)),
    "inet_proto": (_META, (16,)),
    "inet_service": (_PAYLOAD, (11, 2)),
    "mark": (_META, (3,)),
    "integer": (_NUMBER_GENERATOR, (1, 2, 0)),
}
"""ip daddr, ip6 daddr, meta l4proto, th dport, meta mark, numgen random mod 2: nft's numbers of these expressions."""


def _userdata(spec: SetSpec) -> bytes:
    data = spec.data if isinstance(spec.data, tuple) else ()
    parts = [_word(_KEY_ORDER, _order(spec.key))]
    if spec.data is not None:
        parts.append(_word(_DATA_ORDER, _order(data) if data else _MIXED))
    if "integer" in (
        *spec.key,
        *data,
    ):  # whose size nft cannot determine: without an example it aborts when it lists the set
        parts.append(_item(_KEY_EXAMPLE, _example(spec.key)))
        if spec.data is not None:
            parts.append(_item(_DATA_EXAMPLE, _example(data) if data else _expression(_VERDICT, ())))
    if spec.comment:
        parts.append(_item(_COMMENT, spec.comment.encode() + b"\0"))
    return b"".join(parts)


def _order(fields: tuple[Field, ...]) -> int:
    if len(fields) > 1:
        return _MIXED
    return _HOST_ORDER if fields[0] in _IN_HOST_ORDER else _NETWORK_ORDER


def _example(fields: tuple[Field, ...]) -> bytes:
    """An expression of this type."""
    single = [
        _expression(kind, map(_word, range(len(values)), values)) for kind, values in map(_EXAMPLES.__getitem__, fields)
    ]
    return single[0] if len(single) == 1 else _expression(_CONCATENATED, map(_item, range(len(single)), single))


def _expression(kind: int, parts: Iterable[bytes]) -> bytes:
    return _word(0, kind) + _item(1, b"".join(parts))


def _item(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value))) + value


def _word(kind: int, value: int) -> bytes:
    return _item(kind, struct.pack("=I", value))


# Reading


def flags_of(described: Mapping[int, bytes]) -> int:
    """A set's flags, from its dumped attributes."""
    return _number(described, SET_FLAGS)


def decode(name: str, described: Mapping[int, bytes], known: SetSpec | None = None) -> SetSpec | None:
    """The set's spec; None for a foreign one. A `known` one's comment and names of types may differ from the text's."""
    spec = known or _decode(name, described)
    return spec if spec is not None and _has_layout(described, spec) else None


def _decode(name: str, described: Mapping[int, bytes]) -> SetSpec | None:
    key_type, data_type = _number(described, _KEY_TYPE), _number(described, _DATA_TYPE)
    key, data = _fields(key_type), _fields(data_type)
    if not key:
        return None
    return SetSpec(
        name,
        key,
        interval=bool(flags_of(described) & INTERVAL),
        data="verdict" if data_type == _VERDICTS else data or None,
        comment=decode_comment(described.get(_USERDATA, b""), _COMMENT),
        timeout=_number(described, _TIMEOUT) // 1000 if _TIMEOUT in described else None,
    )


def _has_layout(described: Mapping[int, bytes], spec: SetSpec) -> bool:
    data = spec.data if isinstance(spec.data, tuple) else ()
    layout = (
        flags_of(described),
        _number(described, _KEY_TYPE),
        _number(described, _KEY_SIZE),
        _number(described, _DATA_TYPE),
        _number(described, _DATA_SIZE) if data else 0,
    )
    data_type = _VERDICTS if spec.data == "verdict" else _type_number(data)
    size = true_size(data) if data else 0
    return layout == (_flags(spec), _type_number(spec.key), true_size(spec.key), data_type, size)


def for_every_nft(described: Mapping[int, bytes]) -> dict[int, bytes]:
    """The same without examples that are constants, of which no nft needs any.

    nft writes them for plain types since 1.1, and 1.0 crashes on them, whatever of the namespace it is to list: the nft of a
    node may be older than the one beside the agent.
    """
    if _USERDATA not in described:
        return dict(described)
    items = userdata_items(described[_USERDATA])
    return {**described, _USERDATA: b"".join(_item(*each) for each in items if not _is_constant(*each))}


def _is_constant(kind: int, value: bytes) -> bool:
    return kind in (_KEY_EXAMPLE, _DATA_EXAMPLE) and value.startswith(_word(0, _CONSTANT))


def _number(described: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(described.get(kind, b""), "big")


def _fields(number: int) -> tuple[Field, ...]:
    """A concatenation's types; empty when one of them is unknown."""
    fields: list[Field] = []
    while number:
        field = _FIELDS.get(number & ((1 << _TYPE_BITS) - 1))
        if field is None:
            return ()
        fields.insert(0, field)
        number >>= _TYPE_BITS
    return tuple(fields)
