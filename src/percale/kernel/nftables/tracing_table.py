"""Tables that have packets traced: rules with `meta nftrace set 1`, as requests; pure but for `create`.

Each belongs to the socket that created it (flag owner): whatever ends the process, the kernel deletes it.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Request, attribute, attribute_list, attributes, nested, string, text
from percale.kernel.netlink.socket import u32_network as u32
from percale.kernel.nftables.event_subscriptions import SUBSYSTEM, commit_batch
from percale.kernel.nftables.messages import (
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_TYPE,
    NEWCHAIN,
    NEWRULE,
    NEWTABLE,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    TABLE_FLAGS,
    table_header,
)
from percale.render.nft.objects import TableName

PREROUTING, OUTPUT = 0, 3
"""Hooks; the bridge family's numbers are the same."""
AFTER_CONNTRACK = -190

_OWNER_FLAG = 0x2
_APPEND = 0x800
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_REGISTER = 1
_CT_STATE, _STATE_NEW = 0, 8
_CT_PROTOCOL, _CT_SOURCE_PORT = 10, 11
_CT_DIRECTION, _ORIGINAL = 3, b"\0"
_META_NFTRACE = 12
_NETWORK_HEADER = 1
_EQUAL, _NOT_EQUAL = 0, 1
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_LIST_ELEMENT = 1
_VALUE, _VERDICT = 1, 2
_ACCEPT, _GOTO = 1, -4
_COUNTER_PACKETS = 2

_TRACED = (
    # meta nftrace set 1
    nested(
        _LIST_ELEMENT,
        text(_EXPRESSION_NAME, "immediate"),
        nested(_EXPRESSION_DATA, u32(1, _REGISTER), nested(2, attribute(_VALUE, b"\1"))),
    ),
    nested(
        _LIST_ELEMENT,
        text(_EXPRESSION_NAME, "meta"),
        nested(_EXPRESSION_DATA, u32(2, _META_NFTRACE), u32(3, _REGISTER)),
    ),
)


def create(owner: netlink.Socket, requests: Iterable[Request]) -> None:
    """Make a table that lives as long as this socket. Raises OSError: EEXIST where another one owns it."""
    failure = commit_batch(owner, list(requests))
    if failure is None:
        return
    if failure.error.errno in (errno.EPERM, errno.EEXIST, errno.EBUSY):
        raise OSError(errno.EEXIST, "another process has this table") from failure.error
    raise failure.error


def owned(table: TableName) -> Request:
    """The table."""
    header = table_header(table) + u32(TABLE_FLAGS, _OWNER_FLAG)
    return Request(SUBSYSTEM << 8 | NEWTABLE, netlink.CREATE | netlink.EXCLUSIVE, header)


def base_chain(table: TableName, name: str, hook: int, priority: int) -> Request:
    at = nested(CHAIN_HOOK, u32(_HOOK_NUMBER, hook), u32(_HOOK_PRIORITY, priority & 0xFFFFFFFF))
    body = table_header(table) + text(CHAIN_NAME, name) + at + text(CHAIN_TYPE, "filter")
    return Request(SUBSYSTEM << 8 | NEWCHAIN, netlink.CREATE | netlink.EXCLUSIVE, body)


def rule(table: TableName, chain: str, *expressions: bytes) -> Request:
    """Appended to the chain."""
    body = table_header(table) + text(RULE_CHAIN, chain) + nested(RULE_EXPRESSIONS, *expressions)
    return Request(SUBSYSTEM << 8 | NEWRULE, netlink.CREATE | _APPEND, body)


# Packets at a rate: `percale lab watch`. In nft's words:
#
#   table inet percale_watch { flags owner;
#     chain new { type filter hook prerouting priority -190;
#       ct state new limit rate N/second burst M packets meta nftrace set 1 accept
#       ct state new counter
#     } }


def new_connections(table: TableName, rate: int, burst: int) -> Iterator[Request]:
    """At most `rate` new connections a second are traced; the others are counted."""
    yield owned(table)
    yield base_chain(table, "new", PREROUTING, AFTER_CONNTRACK)
    yield rule(table, "new", *_is_new(), _limit(rate, burst), *_TRACED, _accept())
    yield rule(table, "new", *_is_new(), _expression("counter"))


def counted(expressions: bytes) -> int:
    """The packets of a rule's counter, 0 without one."""
    for _, expression in attribute_list(expressions):
        parts = attributes(expression)
        if string(parts.get(_EXPRESSION_NAME, b"")) == "counter":
            packets = attributes(parts.get(_EXPRESSION_DATA, b"")).get(_COUNTER_PACKETS)
            return int.from_bytes(packets or b"", "big")
    return 0


# One packet, by what is written in it: `percale trace`.


def traced_where(table: TableName, chain: str, *matches: bytes) -> Request:
    """Have packets traced that match all of these."""
    return rule(table, chain, *matches, *_TRACED)


def bytes_equal(offset: int, value: bytes) -> bytes:
    """These bytes are at this offset of the network header: `@nh,…`; a shorter packet does not match."""
    into, size = u32(1, _REGISTER), u32(4, len(value))
    return _expression("payload", into, u32(2, _NETWORK_HEADER), u32(3, offset), size) + _compare(_EQUAL, value)


def goto(table: TableName, chain: str, other: str, match: bytes) -> Request:
    """Packets that match go to another chain."""
    verdict = nested(_VERDICT, u32(1, _GOTO & 0xFFFFFFFF), text(2, other))
    return rule(table, chain, match, _expression("immediate", u32(1, 0), nested(2, verdict)))


def plain_chain(table: TableName, name: str) -> Request:
    """A chain that others lead to."""
    return Request(
        SUBSYSTEM << 8 | NEWCHAIN, netlink.CREATE | netlink.EXCLUSIVE, table_header(table) + text(CHAIN_NAME, name)
    )


def begun_from(protocol: int, port: int) -> bytes:
    """A packet of a connection, in either direction, whose first packet came from this port."""
    register, original = u32(1, _REGISTER), attribute(_CT_DIRECTION, _ORIGINAL)
    return b"".join(
        (
            _expression("ct", register, u32(2, _CT_PROTOCOL), original),
            _compare(_EQUAL, protocol.to_bytes(1, "big")),
            _expression("ct", register, u32(2, _CT_SOURCE_PORT), original),
            _compare(_EQUAL, port.to_bytes(2, "big")),
        )
    )


def _is_new() -> Iterator[bytes]:
    """`ct state new`"""
    register, none = u32(1, _REGISTER), attribute(_VALUE, bytes(4))
    mask = attribute(_VALUE, struct.pack("=I", _STATE_NEW))
    yield _expression("ct", register, u32(2, _CT_STATE))
    yield _expression("bitwise", register, u32(2, _REGISTER), u32(3, 4), nested(4, mask), nested(5, none))
    yield _compare(_NOT_EQUAL, bytes(4))


def _limit(rate: int, burst: int) -> bytes:
    per_second = (struct.pack(">Q", number) for number in (rate, 1))
    return _expression("limit", *map(attribute, (1, 2), per_second), u32(3, burst))


def _accept() -> bytes:
    return _expression("immediate", u32(1, 0), nested(2, nested(_VERDICT, u32(1, _ACCEPT))))


def _compare(how: int, value: bytes) -> bytes:
    return _expression("cmp", u32(1, _REGISTER), u32(2, how), nested(3, attribute(_VALUE, value)))


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(_LIST_ELEMENT, text(_EXPRESSION_NAME, name), nested(_EXPRESSION_DATA, *parts))
