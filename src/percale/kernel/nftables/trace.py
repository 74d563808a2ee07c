"""Verdicts of the kernel's rules on new connections of one namespace, live: nft traces, enabled by a table of our own.

    inet percale_watch, prerouting: new connections, so many a second, are traced; the others are counted
                 └─▶ trace messages of `table inet percale`: rule after rule, the verdict ─▶ TracedVerdict

The table belongs to the socket that created it (flag owner): whatever ends the process, the kernel deletes it. `lab/watch.py`
opens a tracer in each node.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import Struct

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Message, Request, attribute, attribute_list, attributes, nested, string, text
from percale.kernel.netlink.socket import u32_network as u32
from percale.kernel.netns import NetnsExecutor
from percale.kernel.nftables.event_subscriptions import SUBSYSTEM, commit_batch
from percale.kernel.nftables.messages import (
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_TYPE,
    FAMILIES,
    GETRULE,
    NEWCHAIN,
    NEWRULE,
    NEWTABLE,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_USERDATA,
    TABLE_FLAGS,
    table_header,
)
from percale.kernel.nftables.rule_codec import decode_comment
from percale.render.nft.objects import POLICY_TABLE, TableName
from percale.render.objects import OWNER

WATCH_TABLE = f"{OWNER}_watch"
_WATCH = TableName("inet", WATCH_TABLE)
JUDGING_CHAIN = "policies"
"""The base chain of `table inet percale` that evaluates policies."""

_TRACE = 17
_TRACE_GROUP = 9

_OWNER_FLAG = 0x2
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_PREROUTING = 0
_AFTER_CONNTRACK = -190
_RULE_HANDLE = 3

_TRACE_TABLE, _TRACE_CHAIN, _TRACE_RULE, _TRACE_TYPE, _TRACE_VERDICT, _TRACE_ID = 1, 2, 3, 4, 5, 6
_TRACE_NETWORK, _TRACE_TRANSPORT, _TRACE_POLICY = 8, 9, 16
_BY_POLICY, _BY_RULE = 1, 3
_DROP, _ACCEPT, _RETURN = 0, 1, -5

_BURST = 50
"""Connections at once whose traces, some five messages each, fit the socket's buffer without root too."""
_MOST_OPEN = 1000
"""Packets whose trace has begun and not ended; the oldest are dropped."""
_PAUSE = 0.2
"""Seconds between two readings of the rules' comments."""
_WITH_PORTS = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_SCTP})


class TracedVerdict(Struct, frozen=True):
    """A new connection and its verdict. Addresses are packed, after DNAT; ports are 0 where there are none."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    port: int
    allowed: bool
    rules: tuple[str, ...]
    """The comments of the deciding rules, in order; none: no policy applied."""


@dataclass(slots=True)
class _Run:
    """A packet traversing the chains."""

    network: bytes
    transport: bytes
    deciding: list[tuple[str, int]] = field(default_factory=list)
    """Chain and handle."""


class Tracer:
    """Traces one namespace until `close`. Not thread-safe."""

    def __init__(self, netns: NetnsExecutor, rate: int) -> None:
        """Trace at most `rate` new connections a second. Raises OSError: EEXIST when another watch is running."""
        self._owner = netns.run(lambda: netlink.Socket(netlink.NETFILTER))
        self._rules = netns.run(lambda: netlink.Socket(netlink.NETFILTER))
        self._events = netns.run(lambda: netlink.Socket(netlink.NETFILTER, (_TRACE_GROUP,)))
        self._open: OrderedDict[int, _Run] = OrderedDict()
        self._comments: dict[tuple[str, int], str] = {}
        self._read_at = 0.0
        self._lost = 0
        try:
            self._set_up(rate)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """For poll."""
        return self._events.fileno()

    def close(self) -> None:
        """The kernel deletes the table with its owner."""
        for each in (self._owner, self._rules, self._events):
            each.close()

    def _set_up(self, rate: int) -> None:
        failure = commit_batch(self._owner, list(_table(rate)))
        if failure is not None:
            if failure.error.errno in (errno.EPERM, errno.EEXIST, errno.EBUSY):
                raise OSError(errno.EEXIST, "another watch is running") from failure.error
            raise failure.error

    def verdicts(self) -> Iterator[TracedVerdict]:
        """The verdicts since the last call. Raises OSError."""
        while True:
            try:
                messages = self._events.receive(wait=False)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost += 1
                continue
            for message in messages:
                if message.type == SUBSYSTEM << 8 | _TRACE and message.body[0] == FAMILIES["inet"]:
                    yield from self._step(message)

    def left_out(self) -> int:
        """New connections that were not traced because of the rate limit, plus lost traces. Raises OSError."""
        body = table_header(_WATCH)
        rules = self._rules.dump(SUBSYSTEM << 8 | GETRULE, body)
        return self._lost + sum(_counted(attributes(rule.body, 4).get(RULE_EXPRESSIONS, b"")) for rule in rules)

    def _step(self, message: Message) -> Iterator[TracedVerdict]:
        found = attributes(message.body, 4)
        if string(found.get(_TRACE_TABLE, b"")) != OWNER:
            return
        packet, chain = _number(found.get(_TRACE_ID)), string(found.get(_TRACE_CHAIN, b""))
        if _TRACE_NETWORK in found and chain == JUDGING_CHAIN:
            self._open[packet] = _Run(found[_TRACE_NETWORK], found.get(_TRACE_TRANSPORT, b""))
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        run = self._open.get(packet)
        if run is None:
            return
        kind = _number(found.get(_TRACE_TYPE))
        verdict = _signed(attributes(found.get(_TRACE_VERDICT, b"")).get(1))
        if kind == _BY_RULE and verdict in (_DROP, _ACCEPT, _RETURN):
            run.deciding.append((chain, _number(found.get(_TRACE_RULE))))
        if kind == _BY_POLICY:
            verdict = _signed(found.get(_TRACE_POLICY))
        if kind == _BY_POLICY or (kind == _BY_RULE and verdict in (_DROP, _ACCEPT)):
            del self._open[packet]
            verdicts = self._verdict(run, allowed=verdict == _ACCEPT)
            if verdicts is not None:
                yield verdicts

    def _verdict(self, run: _Run, *, allowed: bool) -> TracedVerdict | None:
        network, transport = run.network, run.transport
        if network[0] >> 4 == 4:
            source, destination, protocol = network[12:16], network[16:20], network[9]
        elif len(network) >= 40:
            source, destination, protocol = network[8:24], network[24:40], network[6]
        else:
            return None
        has_ports = protocol in _WITH_PORTS and len(transport) >= 4
        source_port, port = struct.unpack_from(">HH", transport) if has_ports else (0, 0)
        rules = tuple(map(self._comment, run.deciding))
        return TracedVerdict(source, destination, protocol, source_port, port, allowed, rules)

    def _comment(self, rule: tuple[str, int]) -> str:
        """The rule's comment; chain and handle for a rule that is deleted by now."""
        if rule not in self._comments and time.monotonic() - self._read_at > _PAUSE:
            self._comments = dict(self._read_comments())
            self._read_at = time.monotonic()
        return self._comments.get(rule) or f"{rule[0]} handle {rule[1]}"

    def _read_comments(self) -> Iterator[tuple[tuple[str, int], str]]:
        body = table_header(POLICY_TABLE)
        for message in self._rules.dump(SUBSYSTEM << 8 | GETRULE, body):
            found = attributes(message.body, 4)
            rule = string(found[RULE_CHAIN]), _number(found.get(_RULE_HANDLE))
            yield rule, decode_comment(found.get(RULE_USERDATA, b""))


def _number(payload: bytes | None) -> int:
    return int.from_bytes(payload or b"", "big")


def _signed(payload: bytes | None) -> int | None:
    return int.from_bytes(payload, "big", signed=True) if payload else None


# The table that has packets traced. In nft's words:
#
#   table inet percale_watch { flags owner;
#     chain new { type filter hook prerouting priority -190;
#       ct state new limit rate N/second burst M packets meta nftrace set 1 accept
#       ct state new counter
#     } }

_REGISTER = 1
_CT_STATE, _STATE_NEW = 0, 8
_META_NFTRACE = 12
_NOT_EQUAL = 1
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_LIST_ELEMENT = 1
_VALUE, _VERDICT = 1, 2
_COUNTER_PACKETS = 2


def _table(rate: int) -> Iterator[Request]:
    header = table_header(_WATCH)
    create = netlink.CREATE | netlink.EXCLUSIVE
    yield Request(SUBSYSTEM << 8 | NEWTABLE, create, header + u32(TABLE_FLAGS, _OWNER_FLAG))
    hook = nested(CHAIN_HOOK, u32(_HOOK_NUMBER, _PREROUTING), u32(_HOOK_PRIORITY, _AFTER_CONNTRACK & 0xFFFFFFFF))
    chain = text(CHAIN_NAME, "new") + hook + text(CHAIN_TYPE, "filter")
    yield Request(SUBSYSTEM << 8 | NEWCHAIN, create, header + chain)
    for expressions in ((*_is_new(), *_traced(rate)), (*_is_new(), _expression("counter"))):
        rule = text(RULE_CHAIN, "new") + nested(RULE_EXPRESSIONS, *expressions)
        yield Request(SUBSYSTEM << 8 | NEWRULE, netlink.CREATE | 0x800, header + rule)


def _is_new() -> Iterator[bytes]:
    """`ct state new`"""
    register, none = u32(1, _REGISTER), attribute(_VALUE, bytes(4))
    mask = attribute(_VALUE, struct.pack("=I", _STATE_NEW))
    yield _expression("ct", register, u32(2, _CT_STATE))
    yield _expression("bitwise", register, u32(2, _REGISTER), u32(3, 4), nested(4, mask), nested(5, none))
    yield _expression("cmp", register, u32(2, _NOT_EQUAL), nested(3, none))


def _traced(rate: int) -> Iterator[bytes]:
    """`limit rate N/second burst M packets meta nftrace set 1 accept`"""
    per_second, burst = (struct.pack(">Q", number) for number in (rate, 1)), min(rate, _BURST)
    yield _expression("limit", *map(attribute, (1, 2), per_second), u32(3, burst))
    yield _expression("immediate", u32(1, _REGISTER), nested(2, attribute(_VALUE, b"\1")))
    yield _expression("meta", u32(2, _META_NFTRACE), u32(3, _REGISTER))
    yield _expression("immediate", u32(1, 0), nested(2, nested(_VERDICT, u32(1, _ACCEPT))))


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(_LIST_ELEMENT, text(_EXPRESSION_NAME, name), nested(_EXPRESSION_DATA, *parts))


def _counted(expressions: bytes) -> int:
    """The packets of a rule's counter, 0 without one."""
    for _, expression in attribute_list(expressions):
        parts = attributes(expression)
        if string(parts.get(_EXPRESSION_NAME, b"")) == "counter":
            return _number(attributes(parts.get(_EXPRESSION_DATA, b"")).get(_COUNTER_PACKETS))
    return 0
