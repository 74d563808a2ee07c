"""What one place, a network namespace, sees of a probe: packets at its devices, rules, and its tables of routes and neighbours.

    Observer(netns) ─ armed ─▶ the probe is sent ─▶ read() … ─▶ observation(): values, which `assembly.py` puts in order

A node's agent can hold one as well as a command in a lab: see docs/decisions/0029. Nothing of it outlives its sockets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from percale.kernel import sysctl
from percale.kernel.netlink.route import RouteQuery
from percale.kernel.nftables.probe_trace import ProbeTrace
from percale.kernel.nftables.trace_messages import ACCEPT, BY_POLICY, BY_RULE, DROP, TraceMessage
from percale.kernel.packet_tap import PacketTap, Sighting
from percale.kernel.probe_packet import Header, Probe, header_of
from percale.kernel.rtnl.path_lookup import PathLookup, PathTables, read_counters
from percale.trace.evidence import OWN_TABLES, Observation, PlaceKind, Step

_CODES = {DROP: "drop", ACCEPT: "accept", -1: "continue", -3: "jump", -4: "goto", -5: "return"}


class Observer:
    """Armed from its construction to `close`; both, and `observation`, are called inside the namespace."""

    def __init__(self, place: str, kind: PlaceKind, probe: Probe, source_port: int) -> None:
        """Raises OSError."""
        self.place = place
        self._kind = kind
        self._probe = probe
        self._sightings: list[Sighting] = []
        self._messages: list[TraceMessage] = []
        self._opened = ExitStack()
        try:
            self._tap = PacketTap(probe)
            self._opened.callback(self._tap.close)
            self._trace = ProbeTrace(probe, source_port)
            self._opened.callback(self._trace.close)
            self._tables = PathTables()
            self._opened.callback(self._tables.close)
            self._before = read_counters()
        except OSError:
            self.close()
            raise

    def descriptors(self) -> Iterator[int]:
        """For poll."""
        yield self._tap.fileno()
        yield self._trace.fileno()

    def close(self) -> None:
        """Nothing is armed any more."""
        self._opened.close()

    def read(self) -> list[Sighting]:
        """What is new. Raises OSError."""
        self._messages += self._trace.messages()
        new = list(self._tap.sightings())
        self._sightings += new
        return new

    @property
    def dropped(self) -> bool:
        """A rule has dropped a packet here."""
        return any(each.is_final and each.verdict == DROP for each in self._messages)

    def observation(self) -> Observation:
        """Everything so far, and what the tables say of the packets' ways. Raises OSError."""
        steps = tuple(map(self._step, self._messages))
        after = read_counters()
        return Observation(
            self.place,
            self._kind,
            tuple(self._sightings),
            steps,
            tuple(self._paths(steps)),
            self._tables.devices(),
            {name: after[name] - value for name, value in self._before.items() if after.get(name, 0) > value},
            self._forwards(),
            self._trace.lost,
        )

    def _forwards(self) -> bool:
        name = "net/ipv4/ip_forward" if self._probe.version == 4 else "net/ipv6/conf/all/forwarding"
        try:
            return sysctl.read(name) != "0"
        except OSError:
            return False

    def _step(self, message: TraceMessage) -> Step:
        ours = message.table in OWN_TABLES
        foreign_drop = not ours and message.type == BY_RULE and message.verdict == DROP
        return Step(
            message.packet,
            message.family,
            message.table,
            message.chain,
            _CODES.get(message.verdict if message.verdict is not None else -1, "continue"),
            message.type == BY_POLICY,
            message.handle,
            self._trace.comment(message) if message.type == BY_RULE else "",
            self._trace.rule_text(message) if foreign_drop else None,
            header_of(message.network, message.transport),
            self._tables.device_name(message.input),
            self._tables.device_name(message.output),
        )

    def _paths(self, steps: tuple[Step, ...]) -> Iterator[PathLookup]:
        """A look-up for each packet as it was routed: after DNAT, before masquerade."""
        asked: set[tuple[RouteQuery, str | None]] = set()
        for header, device in (*self._routed_headers(steps), *self._seen_headers()):
            query = RouteQuery(
                header.destination, header.source, header.protocol, header.source_port, header.destination_port
            )
            if (query, device) not in asked:
                asked.add((query, device))
                yield self._tables.lookup(query, device)

    def _routed_headers(self, steps: tuple[Step, ...]) -> Iterator[tuple[Header, str | None]]:
        """As the chains after the routing decision have them."""
        inputs: dict[int, str | None] = {}
        for step in steps:
            if step.header is None:
                continue
            inputs.setdefault(step.packet, step.input)
            if step.output is not None and step.family != "bridge":
                yield step.header, inputs[step.packet]

    def _seen_headers(self) -> Iterator[tuple[Header, str | None]]:
        """Of packets that came in, and of those that went out without having come in: they begin here."""
        masters = {each.name: each.master for each in self._tables.devices()}
        entered: set[tuple[bool, bool]] = set()
        for seen in self._sightings:
            found, which = seen.found, (seen.found.is_answer, seen.found.outer is None)
            header = found.header if found.outer is None else found.outer
            if not seen.outgoing:
                entered.add(which)
                if masters.get(seen.device) is None and not seen.to_others:
                    yield header, seen.device
            elif (found.error is None or found.is_carried) and which not in entered:
                yield header, None
