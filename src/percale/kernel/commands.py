"""Each change as the command lines that would make it: what `-v` prints, and where an error says it happened. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from percale.kernel.protocol import Change, Upsert
from percale.kernel.table_fingerprint import mark
from percale.render.objects import (
    OWNER,
    ROUTE_PROTOCOL,
    Address,
    Element,
    FdbEntry,
    KernelObject,
    Link,
    Neighbour,
    Redirect,
    Route,
    Ruleset,
    Shaper,
    Sysctl,
)


def spell(change: Change) -> list[str]:
    """The lines for one change, for a shell as root in the namespace."""
    return _put(change.object) if isinstance(change, Upsert) else _remove(change.object)


def spell_object(obj: KernelObject) -> str:
    """The line that stands for an object, in an error or a status."""
    return spell(Upsert(obj))[0].split("\n", 1)[0]


def _put(wish: KernelObject) -> list[str]:
    match wish:
        case Link():
            lines = _put_link(wish)
        case Address():
            once = " nodad" if wish.address.version == 6 else ""
            lines = [f"ip address replace {wish.address} dev {wish.dev}{once}"]
        case Route():
            lines = [f"ip route replace {_route(wish)} proto {ROUTE_PROTOCOL}"]
        case Neighbour():
            where = f"{wish.address} lladdr {wish.mac} dev {wish.dev}"
            lines = [f"ip neighbour replace {where} nud permanent protocol {ROUTE_PROTOCOL}"]
        case FdbEntry():
            lines = [f"bridge fdb replace {wish.mac} dev {wish.dev} dst {wish.dst} self permanent"]
        case Shaper():
            lines = [
                f"tc qdisc replace dev {wish.dev} root tbf rate {wish.rate}bit burst {wish.burst // 8} latency 25ms",
            ]
        case Redirect():
            lines = [
                f"tc qdisc add dev {wish.dev} ingress",
                f"tc filter add dev {wish.dev} parent ffff: protocol all prio 1 u32 match u32 0 0 "
                f"action mirred egress redirect dev {wish.to}",
            ]
        case Sysctl():
            lines = [f"sysctl -w {wish.name}='{wish.value}'"]
        case Ruleset():
            lines = [f"nft -f - <<'END'\n{spell_table(wish)}\nEND"]
        case Element():
            lines = [f"nft 'add element {spell_element(wish)}'"]
    return lines


def _remove(wish: KernelObject) -> list[str]:
    match wish:
        case Link():
            lines = [f"ip link delete {wish.name}"] if wish.kind is not None else []
        case Address():
            lines = [f"ip address delete {wish.address} dev {wish.dev}"]
        case Route():
            lines = [f"ip route delete {_route(wish)}"]
        case Neighbour():
            lines = [f"ip neighbour delete {wish.address} dev {wish.dev}"]
        case FdbEntry():
            lines = [f"bridge fdb delete {wish.mac} dev {wish.dev} self"]
        case Shaper():
            lines = [f"tc qdisc delete dev {wish.dev} root"]
        case Redirect():
            lines = [f"tc qdisc delete dev {wish.dev} ingress"]
        case Sysctl():
            lines = []
        case Ruleset():
            lines = [f"nft delete table {wish.family} {OWNER}"]
        case Element():
            lines = [f"nft 'delete element {spell_element(wish)}'"]
    return lines


def _put_link(wish: Link) -> list[str]:
    settings = [
        f"mtu {wish.mtu}" if wish.mtu is not None else "",
        f"address {wish.mac}" if wish.mac is not None else "",
        f"arp {'on' if wish.arp else 'off'}" if wish.arp is not None else "",
    ]
    lines = []
    if wish.kind is not None:
        words = ["ip link add", wish.name, *settings, "type", wish.kind, *_kind_words(wish)]
        lines.append(" ".join(word for word in words if word))
        settings = [f"alias {wish.alias}"]
    if wish.master is not None:
        settings.append(f"master {wish.master}")
    words = ["ip link set", wish.name, *settings, "up" if wish.up else "down"]
    lines.append(" ".join(word for word in words if word))
    if wish.hairpin is not None:
        lines.append(f"bridge link set dev {wish.name} hairpin {'on' if wish.hairpin else 'off'}")
    return lines


def _kind_words(wish: Link) -> list[str]:
    if wish.vxlan is not None:
        vxlan = wish.vxlan
        learning = "learning" if vxlan.learning else "nolearning"
        where = f"id {vxlan.vni} local {vxlan.local} dev {vxlan.dev} dstport {vxlan.port} {learning}"
        return [where, "gbp" if vxlan.gbp else ""]
    if wish.bridge is not None:
        bridge = wish.bridge
        return [f"mcast_snooping {int(bridge.snooping)} no_linklocal_learn {int(not bridge.reserved)}"]
    if wish.peer is not None:
        peer = wish.peer
        words = [f"peer name {peer.name}"]
        words += [f"address {peer.mac}"] if peer.mac is not None else []
        words += [f"mtu {peer.mtu}"] if peer.mtu is not None else []
        words += [f"netns /proc/self/fd/{peer.namespace}"] if peer.namespace is not None else []
        return words
    return []


def _route(wish: Route) -> str:
    words = [str(wish.dst)] if wish.kind == "unicast" else [wish.kind, str(wish.dst)]
    if wish.via is not None:
        words.append(f"via {wish.via}" if wish.via.version == wish.dst.version else f"via inet6 {wish.via}")
    if wish.dev is not None:
        words.append(f"dev {wish.dev}")
    if wish.onlink:
        words.append("onlink")
    if wish.src is not None:
        words.append(f"src {wish.src}")
    if wish.metric:
        words.append(f"metric {wish.metric}")
    return " ".join(words)


def spell_table(wish: Ruleset) -> str:
    """The table anew, whether it was there or not, for `nft -f -`; its comment tells us what was loaded."""
    table = f"{wish.family} {OWNER}"
    return f'add table {table}\ndelete table {table}\ntable {table} {{\ncomment "{mark(wish)}"\n{wish.text}\n}}'


def spell_element(wish: Element) -> str:
    """The element as nft names it: family, table, set, braces."""
    parts = " . ".join(_part(part) for part in wish.match)
    return f"{wish.family} {OWNER} {wish.set} {{ {parts} }}"


def _part(part: object) -> str:
    if isinstance(part, int) and part > 0xFFFF_FFFF:
        return f"{part:#x}"  # an address's bits
    if isinstance(part, IPv4Address | IPv6Address | IPv4Network | IPv6Network | int) or ":" in str(part):
        return str(part)
    return f'"{part}"'
