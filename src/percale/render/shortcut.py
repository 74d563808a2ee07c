"""The way past the rules for flows that have passed them: `table netdev percale`, as text. `agent/shortcutting.py` loads it.

    pod ─▶ ingress: flow known? ── yes ─▶ fwd to the next hop's device          (no routing, no conntrack, no rules)
                       │ no
                       ▼
           prerouting … forward: established, not translated ─▶ mark ─▶ egress: the mark ─▶ flow known for some seconds

What is translated, new, ending, a fragment or too long for the way never takes it, so that NAT, policies and path MTU stay as
they are. A flow is forgotten after a few seconds and learned again from its next packet: conntrack and routes stay in charge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from percale.render.objects import OWNER, IPAddress, IPNetwork

MARK = 0x0040_0000
"""The packet mark's bit between the forward chain and the device that the packet leaves by, where it is cleared."""

REMEMBERED = 5
"""Seconds."""
_MOST_FLOWS = 65536
_KEPT = 0xFFFF_FFFF ^ MARK

SETS = ("flows4", "flows6", "pings4", "pings6")


@dataclass(frozen=True, slots=True)
class Wire:
    """A routed pod's device and its addresses."""

    device: str
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """Pods of another node: the next hop and its device."""

    network: IPNetwork
    via: IPAddress
    device: str


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """All that there is to know; `mtu` is the smallest of the ways'."""

    wires: tuple[Wire, ...]
    ways: tuple[Way, ...]
    mtu: int


def text(shortcuts: Shortcuts) -> str:
    """The table anew, as `nft -f` reads it."""
    body = "\n".join([*_sets(shortcuts), *_chains(shortcuts.mtu), *_hooks(shortcuts)])
    return f"table netdev {OWNER}\ndelete table netdev {OWNER}\ntable netdev {OWNER} {{\n{body}\n}}\n"


def _sets(shortcuts: Shortcuts) -> Iterator[str]:
    known = f"flags dynamic, timeout; size {_MOST_FLOWS}; timeout {REMEMBERED}s"
    for version, ip, kind in ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr")):
        ping = "icmp" if version == 4 else "icmpv6"
        protocol = "ip protocol" if version == 4 else "ip6 nexthdr"
        yield f"set flows{version} {{ typeof {ip} saddr . {ip} daddr . {protocol} . @th,0,32; {known}; }}"
        yield f"set pings{version} {{ typeof {ip} saddr . {ip} daddr . {ping} type . {ping} id; {known}; }}"
        homes = [
            (address, wire.device)
            for wire in shortcuts.wires
            for address in wire.addresses
            if address.version == version
        ]
        hops: list[tuple[IPNetwork | IPAddress, IPAddress, str]] = [
            (way.network, way.via, way.device) for way in shortcuts.ways if way.network.version == version
        ]
        hops += [(address, address, device) for address, device in homes]
        device = f"{kind} : iface_index"
        yield _filled(f"set sources{version}", f"iface_index . {kind}", (f'"{name}" . {each}' for each, name in homes))
        yield _filled(f"map home{version}", device, (f'{each} : "{name}"' for each, name in homes))
        yield _filled(f"map via{version}", f"{kind} : {kind}", (f"{to} : {hop}" for to, hop, _ in hops), ranges=True)
        yield _filled(f"map out{version}", device, (f'{to} : "{name}"' for to, _, name in hops), ranges=True)


def _filled(head: str, kind: str, elements: Iterable[str], *, ranges: bool = False) -> str:
    content = ", ".join(elements)
    filled = f" elements = {{ {content} }};" if content else ""
    return f"{head} {{ type {kind};{' flags interval;' if ranges else ''}{filled} }}"


def _chains(mtu: int) -> Iterator[str]:
    for version, ip, ping in ((4, "ip", "icmp"), (6, "ip6", "icmpv6")):
        protocol = "ip protocol" if version == 4 else "ip6 nexthdr"
        last = "ip ttl < 2" if version == 4 else "ip6 hoplimit < 2"
        # An IPv6 fragment's next header is another one: it is no known flow.
        entire = "ip frag-off & 0x3fff != 0 return\n    " if version == 4 else ""
        flow = f"{ip} saddr . {ip} daddr . {protocol} . @th,0,32"
        echo = f"{ip} saddr . {ip} daddr . {ping} type . {ping} id"
        home = f"fwd {ip} to {ip} daddr device {ip} daddr map @home{version}"
        anywhere = f"fwd {ip} to {ip} daddr map @via{version} device {ip} daddr map @out{version}"
        guard = f"iif . {ip} saddr != @sources{version} return"
        for place, steps in (("node", (home,)), ("pod", (guard, anywhere))):
            way = "\n    ".join(steps)
            yield f"""\
chain from-{place}{version} {{
    {protocol} {ping} goto echo-from-{place}{version}
    {flow} @flows{version} goto flow-from-{place}{version}
}}
chain flow-from-{place}{version} {{
    {entire}{last} return
    {protocol} tcp tcp flags & (syn | fin | rst) != 0 return
    {protocol} udp meta length > {mtu} return
    {way}
}}
chain echo-from-{place}{version} {{
    {entire}{last} return
    meta length > {mtu} return
    {echo} @pings{version} goto pinged-from-{place}{version}
}}
chain pinged-from-{place}{version} {{
    {way}
}}"""
        yield f"""\
chain learning{version} {{
    {protocol} {{ tcp, udp }} update @flows{version} {{ {flow} }}
    {ping} type {{ echo-request, echo-reply }} update @pings{version} {{ {echo} }}
}}"""
    yield f"""\
chain learning {{
    meta mark set meta mark & {_KEPT:#x}
    meta protocol ip goto learning4
    meta protocol ip6 goto learning6
}}"""


def _hooks(shortcuts: Shortcuts) -> Iterator[str]:
    ways = dict.fromkeys(way.device for way in shortcuts.ways)
    for place, devices in (("pod", [wire.device for wire in shortcuts.wires]), ("node", list(ways))):
        for device in devices:
            yield f"""\
chain in-{device} {{
    type filter hook ingress device "{device}" priority 0; policy accept;
    meta protocol ip goto from-{place}4
    meta protocol ip6 goto from-{place}6
}}
chain out-{device} {{
    type filter hook egress device "{device}" priority 0; policy accept;
    meta mark & {MARK:#x} == {MARK:#x} jump learning
}}"""
