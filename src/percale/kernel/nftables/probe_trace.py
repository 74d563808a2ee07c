"""What all tables of a network namespace do with one probe and its answer. Used by `trace/observer.py`.

    inet, bridge percale_trace_TOKEN: before all other chains, `@nh,… TOKEN meta nftrace set 1`; of UDP's answers the connection
                 └─▶ trace messages, rule after rule ─▶ TracedRule, with the rule's comment or, of a foreign one, its text

The tables belong to the socket that created them (flag owner): whatever ends the process, the kernel deletes them.
"""

from __future__ import annotations

import errno
import re
import subprocess
from collections.abc import Iterator
from itertools import chain

from msgspec import Struct

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Request, attribute, attributes, text
from percale.kernel.nftables import tracing_table
from percale.kernel.nftables.event_subscriptions import SUBSYSTEM
from percale.kernel.nftables.messages import GETRULE, GETTABLE, RULE_CHAIN, RULE_HANDLE, RULE_USERDATA, table_header
from percale.kernel.nftables.rule_codec import decode_comment
from percale.kernel.nftables.trace_messages import TraceMessage, TraceSocket
from percale.kernel.nftables.tracing_table import (
    OUTPUT,
    PREROUTING,
    base_chain,
    bytes_equal,
    goto,
    owned,
    plain_chain,
    traced_where,
)
from percale.kernel.probe_packet import Probe
from percale.render.nft.objects import TableFamily, TableName
from percale.render.objects import OWNER

TABLE_PREFIX = f"{OWNER}_trace_"
_ALL_FAMILIES = bytes(4)
_FAMILIES: tuple[TableFamily, ...] = ("inet", "bridge")
_FIRST = -1000
"""Priority: before defragmentation, -400, and everybody's rules."""
_HOOKS = {"prerouting": PREROUTING, "output": OUTPUT}
_NFT_PATIENCE = 5
"""Seconds."""


class RuleText(Struct, frozen=True):
    """A rule's comment, and the rule as nft lists it; None: not asked for, or deleted meanwhile."""

    comment: str
    text: str | None = None


class ProbeTrace:
    """Armed until `close`, where there is any table at all. Not thread-safe."""

    def __init__(self, probe: Probe, source_port: int) -> None:
        """In the caller's namespace. `source_port`: the probe's own, 0 for ICMP. Raises OSError."""
        self._owner = netlink.Socket(netlink.NETFILTER)
        self._rules = netlink.Socket(netlink.NETFILTER)
        self._events = TraceSocket()
        self._name = f"{TABLE_PREFIX}{probe.token:08x}"
        try:
            if self._rules.dump(SUBSYSTEM << 8 | GETTABLE, _ALL_FAMILIES):
                tables = (self._table(TableName(family, self._name), probe, source_port) for family in _FAMILIES)
                tracing_table.create(self._owner, chain.from_iterable(tables))
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """For poll."""
        return self._events.fileno()

    @property
    def lost(self) -> bool:
        """Messages were lost."""
        return self._events.lost > 0

    def close(self) -> None:
        """The kernel deletes the tables with their owner."""
        for each in (self._owner, self._rules, self._events):
            each.close()

    def _table(self, table: TableName, probe: Probe, source_port: int) -> Iterator[Request]:
        yield owned(table)
        places = probe.everywhere()
        names = {each: f"ip{each.version}-{each.protocol}" for each in places}
        for each, positions in places.items():
            yield plain_chain(table, names[each])
            yield from (traced_where(table, names[each], bytes_equal(*position)) for position in positions)
        for name, hook in _HOOKS.items():
            yield base_chain(table, name, hook, _FIRST)
            # By the protocol alone, wherever the version has it: few packets are compared in vain.
            yield from (
                goto(table, name, names[each], bytes_equal(each.offset, bytes((each.protocol,)))) for each in places
            )
            if probe.protocol == "UDP" and table.family == "inet":
                later = f"{name}-tracked"
                yield base_chain(table, later, hook, tracing_table.AFTER_CONNTRACK)
                yield traced_where(table, later, tracing_table.begun_from(probe.number, source_port))

    def messages(self) -> Iterator[TraceMessage]:
        """Since the last call, without those of our own tables. Raises OSError."""
        return (each for each in self._events.messages() if not each.table.startswith(TABLE_PREFIX))

    def comment(self, step: TraceMessage) -> str:
        """Of the rule; "" without one, or when the rule is deleted. Raises OSError."""
        named = table_header(TableName(step.family, step.table)) + text(RULE_CHAIN, step.chain)
        try:
            answer = self._rules.ask(
                SUBSYSTEM << 8 | GETRULE, named + attribute(RULE_HANDLE, step.handle.to_bytes(8, "big"))
            )
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return ""
        return decode_comment(attributes(answer.body, 4).get(RULE_USERDATA, b"")) if answer is not None else ""

    def rule_text(self, step: TraceMessage) -> str:
        """The rule as nft lists it in the caller's namespace; "" when it is deleted. Raises OSError, TimeoutExpired."""
        command = ["nft", "-a", "list", "chain", step.family, step.table, step.chain]

        listed = subprocess.run(command, capture_output=True, text=True, timeout=_NFT_PATIENCE, check=False).stdout
        found = re.search(rf"^\s*(.*?)\s*# handle {step.handle}$", listed, re.MULTILINE)
        return found[1] if found is not None else ""
