"""Verdicts of the kernel's rules on new connections of one namespace, live: nft traces, enabled by a table of our own.

    inet percale_watch, prerouting: new connections, so many a second, are traced; the others are counted
                 └─▶ trace messages of `table inet percale`: rule after rule, the verdict ─▶ TracedVerdict

The table belongs to the socket that created it (flag owner): whatever ends the process, the kernel deletes it. `lab/watch.py`
opens a tracer in each node.
"""

from __future__ import annotations

import errno
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import Struct

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import attributes, string
from percale.kernel.netns import NetnsExecutor
from percale.kernel.nftables import tracing_table
from percale.kernel.nftables.event_subscriptions import SUBSYSTEM
from percale.kernel.nftables.messages import (
    GETRULE,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_HANDLE,
    RULE_USERDATA,
    table_header,
)
from percale.kernel.nftables.rule_codec import decode_comment
from percale.kernel.nftables.trace_messages import ACCEPT, BY_RULE, DROP, RETURN, WITH_PORTS, TraceMessage, TraceSocket
from percale.render.nft.objects import INPUT_CHAIN, POLICY_TABLE, TableName
from percale.render.objects import OWNER

WATCH_TABLE = f"{OWNER}_watch"
_WATCH = TableName("inet", WATCH_TABLE)
JUDGING_CHAINS = frozenset({"policies", INPUT_CHAIN})
"""The base chains of `table inet percale`, which evaluate policies."""

_BURST = 50
"""Connections at once whose traces, some five messages each, fit the socket's buffer without root too."""
_MOST_OPEN = 1000
"""Packets whose trace has begun and not ended; the oldest are dropped."""
_PAUSE = 0.2
"""Seconds between two readings of the rules' comments."""


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
        self._events = netns.run(TraceSocket)
        self._open: OrderedDict[int, _Run] = OrderedDict()
        self._comments: dict[tuple[str, int], str] = {}
        self._read_at = 0.0
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
        try:
            tracing_table.create(self._owner, tracing_table.new_connections(_WATCH, rate, min(rate, _BURST)))
        except FileExistsError as error:
            raise OSError(errno.EEXIST, "another watch is running") from error

    def verdicts(self) -> Iterator[TracedVerdict]:
        """The verdicts since the last call. Raises OSError."""
        for step in self._events.messages():
            if (step.family, step.table) == ("inet", OWNER):
                yield from self._step(step)

    def left_out(self) -> int:
        """New connections that were not traced because of the rate limit, plus lost traces. Raises OSError."""
        body = table_header(_WATCH)
        rules = self._rules.dump(SUBSYSTEM << 8 | GETRULE, body)
        return self._events.lost + sum(
            tracing_table.counted(attributes(rule.body, 4).get(RULE_EXPRESSIONS, b"")) for rule in rules
        )

    def _step(self, step: TraceMessage) -> Iterator[TracedVerdict]:
        if step.network and step.chain in JUDGING_CHAINS:
            self._open[step.packet] = _Run(step.network, step.transport)
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        run = self._open.get(step.packet)
        if run is None:
            return
        if step.type == BY_RULE and step.verdict in (DROP, ACCEPT, RETURN):
            run.deciding.append((step.chain, step.handle))
        if step.is_final:
            del self._open[step.packet]
            verdicts = self._verdict(run, allowed=step.verdict == ACCEPT)
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
        has_ports = protocol in WITH_PORTS and len(transport) >= 4
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
            rule = string(found[RULE_CHAIN]), int.from_bytes(found[RULE_HANDLE], "big")
            yield rule, decode_comment(found.get(RULE_USERDATA, b""))
