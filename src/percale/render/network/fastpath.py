"""A fast path for established flows, past the rules: `table netdev percale`, as text. Loaded by `agent/network/fastpath.py`.

    pod ─▶ ingress: flow known? ── yes ─▶ fwd to the next hop's device          (no routing, no conntrack, no rules)
                       │ no
                       ▼
           prerouting … forward: established, not translated ─▶ mark ─▶ egress: the mark ─▶ flow known for some seconds

Packets that are tagged, translated, new, ending, fragments or too long never take it, so that NAT, policies and path MTU are
unaffected. A flow expires after a few seconds and is learned again from its next packet: conntrack and routes remain in control.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from percale.model.addresses import IPAddress, IPNetwork
from percale.render.nft.objects import TableName

MARK = 0x0040_0000
"""The packet mark's bit between the forward chain and the device that the packet leaves by, where it is cleared."""

FLOW_TIMEOUT = 5
"""Seconds."""
_MOST_FLOWS = 65536
_MASK = 0xFFFF_FFFF ^ MARK

SETS = ("flows4", "flows6", "pings4", "pings6")


class FastpathPod(Struct, frozen=True):
    """A routed pod's device and its addresses."""

    device: str
    addresses: tuple[IPAddress, ...]


class FastpathRoute(Struct, frozen=True):
    """A peer's pod network: the next hop and its device."""

    network: IPNetwork
    via: IPAddress
    device: str


class FastpathConfig(Struct, frozen=True):
    """The content of the table; `mtu` is the smallest of the routes'."""

    pods: tuple[FastpathPod, ...]
    routes: tuple[FastpathRoute, ...]
    mtu: int


class _Packet(Struct, frozen=True):
    """One IP version's expressions. The hot rules use raw loads, for a rule that names a header matches its protocol first."""

    ip: str
    kind: int
    """A frame's type, as it came: a tag, which the way would keep, stands there instead."""
    source: str
    next_header: str
    ping: str
    ping_number: int
    protocol: str
    length: str
    uncounted: int
    """Bytes of the header that `length` does not count."""
    excluded: tuple[str, ...]
    """Rules for fragments and the last hop. An IPv6 fragment has another next header: it is no known flow."""

    @property
    def version(self) -> int:
        return 4 if self.ip == "ip" else 6

    @property
    def untagged(self) -> str:
        return f"@ll,96,16 {self.kind:#06x}"

    @property
    def flow(self) -> str:
        return f"{self.ip} saddr . {self.ip} daddr . {self.next_header} . @th,0,32"

    @property
    def echo(self) -> str:
        """The key of a ping: addresses, type and identifier."""
        return f"{self.ip} saddr . {self.ip} daddr . @th,0,8 . @th,32,16"


_PACKETS = {
    4: _Packet(
        ip="ip",
        kind=0x0800,
        source="@nh,96,32",
        next_header="ip protocol",
        ping="icmp",
        ping_number=1,
        protocol="@nh,72,8",
        length="@nh,16,16",
        uncounted=0,
        excluded=('@nh,48,16 & 0x3fff != 0 return comment "a fragment"', '@nh,64,8 < 2 return comment "the last hop"'),
    ),
    6: _Packet(
        ip="ip6",
        kind=0x86DD,
        source="@nh,64,128",
        next_header="ip6 nexthdr",
        ping="icmpv6",
        ping_number=58,
        protocol="@nh,48,8",
        length="@nh,32,16",
        uncounted=40,
        excluded=('@nh,56,8 < 2 return comment "the last hop"',),
    ),
}
_TCP, _UDP = 6, 17
_GOING_ON = "@th,104,8 & 0x7 == 0"
"""No FIN, SYN or RST."""


TABLE = TableName("netdev")


def text(config: FastpathConfig) -> str:
    """The table's content."""
    return "\n".join([*_sets(config), *_chains(config), *_hooks(config)])


def _sets(config: FastpathConfig) -> Iterator[str]:
    known = f"flags dynamic, timeout; size {_MOST_FLOWS}; timeout {FLOW_TIMEOUT}s"
    for packet in _PACKETS.values():
        yield f"set flows{packet.version} {{ typeof {packet.flow}; {known}; }}"
        yield f"set pings{packet.version} {{ typeof {packet.echo}; {known}; }}"
        homes = (
            f'{address} : "{pod.device}"'
            for pod in config.pods
            for address in pod.addresses
            if address.version == packet.version
        )
        yield _map(f"home{packet.version}", f"{packet.ip} daddr : meta oif", homes)
        for device in _devices(config):
            hops = (
                f"{route.network} : {route.via}"
                for route in config.routes
                if route.network.version == packet.version and route.device == device
            )
            yield _map(f"via{packet.version}-{device}", f"{packet.ip} daddr : {packet.ip} daddr", hops, ranges=True)


def _devices(config: FastpathConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys(route.device for route in config.routes))


def _map(name: str, kind: str, elements: Iterable[str], *, ranges: bool = False) -> str:
    content = ", ".join(elements)
    filled = f" elements = {{ {content} }};" if content else ""
    return f"map {name} {{ typeof {kind};{' flags interval;' if ranges else ''}{filled} }}"


def _chains(config: FastpathConfig) -> Iterator[str]:
    for packet in _PACKETS.values():
        ip, version = packet.ip, packet.version
        home = f"fwd {ip} to {ip} daddr device {ip} daddr map @home{version}"
        routes = [f'fwd {ip} to {ip} daddr map @via{version}-{each} device "{each}"' for each in _devices(config)]
        yield _chain(f"away{version}", [*routes, home])
        fits = f"{packet.length} <= {config.mtu - packet.uncounted}"
        known = {
            "a ping that fits": f"{packet.protocol} {packet.ping_number} {fits} {packet.echo} @pings{version}",
            "TCP that goes on": f"{packet.protocol} {_TCP} {_GOING_ON} {packet.flow} @flows{version}",
            "UDP that fits": f"{packet.protocol} {_UDP} {fits} {packet.flow} @flows{version}",
        }
        for place, go in (("node", home), ("pod", f"goto away{version}")):
            rules = (f'{match} {go} comment "{what}"' for what, match in known.items())
            yield _chain(f"from-{place}{version}", [*packet.excluded, *rules])
        ports = f"{packet.next_header} {{ tcp, udp }} update @flows{version} {{ {packet.flow} }}"
        pings = f"{packet.ping} type {{ echo-request, echo-reply }} goto learning-echo{version}"
        yield _chain(f"learning{version}", [ports, pings])
        # Apart, for where nft knows of ICMP it lists the loads as other types than the set's, which cannot be loaded again.
        yield _chain(f"learning-echo{version}", [f"update @pings{version} {{ {packet.echo} }}"])
    clear = f"meta mark set meta mark & {_MASK:#x}"
    kinds = [f"meta protocol {packet.ip} goto learning{packet.version}" for packet in _PACKETS.values()]
    yield _chain("learning", [clear, *kinds])


def _hooks(config: FastpathConfig) -> Iterator[str]:
    for pod in config.pods:
        own = (
            f'{packet.untagged} {packet.source} {int(each):#x} goto from-pod{each.version} comment "{each}"'
            for each in pod.addresses
            for packet in (_PACKETS[each.version],)
        )
        yield from _hooked(pod.device, own)
    for device in _devices(config):
        yield from _hooked(
            device, (f"{packet.untagged} goto from-node{packet.version}" for packet in _PACKETS.values())
        )


def _hooked(device: str, arriving: Iterable[str]) -> Iterator[str]:
    """A device's ingress and egress chain."""
    learned = f"meta mark & {MARK:#x} == {MARK:#x} jump learning"
    for direction, hook, rules in (("in", "ingress", arriving), ("out", "egress", (learned,))):
        base = f'type filter hook {hook} device "{device}" priority 0; policy accept;'
        yield _chain(f"{direction}-{device}", [base, *rules])


def _chain(name: str, rules: Iterable[str]) -> str:
    lines = "".join(f"    {rule}\n" for rule in rules)
    return f"chain {name} {{\n{lines}}}"
