"""Changes as equivalent shell commands: what `-v` prints, and the location in errors. Pure."""

from __future__ import annotations

from percale.kernel.netlink.link_kinds.registry import codec_of
from percale.kernel.protocol import Change, Upsert
from percale.render.link_kinds import Tun
from percale.render.objects import (
    ROUTE_PROTOCOL,
    Address,
    FdbEntry,
    KernelObject,
    Link,
    Neighbour,
    Redirect,
    Route,
    Shaper,
    Sysctl,
    WireguardDevice,
    WireguardPeer,
)


def to_commands(change: Change) -> list[str]:
    """The commands of one change, for a root shell in the namespace."""
    return _put(change.object) if isinstance(change, Upsert) else _remove(change.object)


def format_object(obj: KernelObject) -> str:
    """The command that creates an object, for errors and the status."""
    return to_commands(Upsert(obj))[0].split("\n", 1)[0]


def _put(desired: KernelObject) -> list[str]:
    match desired:
        case Link():
            lines = _put_link(desired)
        case Address():
            once = " nodad" if desired.address.version == 6 else ""
            lines = [f"ip address replace {desired.address} dev {desired.dev}{once}"]
        case Route():
            lines = [f"ip route replace {_route(desired)} proto {ROUTE_PROTOCOL}"]
        case Neighbour():
            where = f"{desired.address} lladdr {desired.mac} dev {desired.dev}"
            lines = [f"ip neighbour replace {where} nud permanent protocol {ROUTE_PROTOCOL}"]
        case FdbEntry():
            lines = [f"bridge fdb replace {desired.mac} dev {desired.dev} dst {desired.dst} self permanent"]
        case WireguardDevice():
            lines = [f"wg set {desired.dev} listen-port {desired.port} fwmark {desired.mark} private-key KEY-FILE"]
        case WireguardPeer():
            lines = [f"wg set {desired.dev} peer {_peer(desired)}"]
        case Shaper():
            lines = [
                f"tc qdisc replace dev {desired.dev} root tbf rate {desired.rate}bit burst {desired.burst // 8} latency 25ms",
            ]
        case Redirect():
            lines = [
                f"tc qdisc add dev {desired.dev} ingress",
                f"tc filter add dev {desired.dev} parent ffff: protocol all prio 1 u32 match u32 0 0 "
                f"action mirred egress redirect dev {desired.to}",
            ]
        case Sysctl():
            lines = [f"sysctl -w {desired.name}='{desired.value}'"]
    return lines


def _remove(desired: KernelObject) -> list[str]:
    match desired:
        case Link():
            lines = [f"ip link delete {desired.name}"] if desired.kind is not None else []
        case Address():
            lines = [f"ip address delete {desired.address} dev {desired.dev}"]
        case Route():
            lines = [f"ip route delete {_route(desired)}"]
        case Neighbour():
            lines = [f"ip neighbour delete {desired.address} dev {desired.dev}"]
        case FdbEntry():
            lines = [f"bridge fdb delete {desired.mac} dev {desired.dev} self"]
        case WireguardPeer():
            lines = [f"wg set {desired.dev} peer {desired.public_key} remove"]
        case Shaper():
            lines = [f"tc qdisc delete dev {desired.dev} root"]
        case Redirect():
            lines = [f"tc qdisc delete dev {desired.dev} ingress"]
        case Sysctl() | WireguardDevice():
            lines = []
    return lines


def _peer(desired: WireguardPeer) -> str:
    words = [desired.public_key]
    if desired.preshared_key is not None:
        words.append("preshared-key KEY-FILE")
    if desired.endpoint is not None:
        words.append(f"endpoint {desired.endpoint}")
    words.append(f"persistent-keepalive {desired.keepalive}")
    return f"{' '.join(words)} allowed-ips {','.join(sorted(map(str, desired.allowed)))}"


def _put_link(desired: Link) -> list[str]:
    settings = [
        f"mtu {desired.mtu}" if desired.mtu is not None else "",
        f"address {desired.mac}" if desired.mac is not None else "",
        f"arp {'on' if desired.arp else 'off'}" if desired.arp is not None else "",
    ]
    lines = []
    if isinstance(desired.kind, Tun):
        lines.append(f"ip tuntap add {desired.name} mode tun")
        settings.append(f"alias {desired.alias}")
    elif desired.kind is not None:
        words = ["ip link add", desired.name, *settings, "type", desired.kind.name]
        words += codec_of(desired.kind).options(desired.kind)
        lines.append(" ".join(word for word in words if word))
        settings = [f"alias {desired.alias}"]
    if desired.master is not None:
        settings.append(f"master {desired.master}")
    words = ["ip link set", desired.name, *settings, "up" if desired.up else "down"]
    lines.append(" ".join(word for word in words if word))
    if desired.hairpin is not None:
        lines.append(f"bridge link set dev {desired.name} hairpin {'on' if desired.hairpin else 'off'}")
    return lines


def _route(desired: Route) -> str:
    words = [str(desired.dst)] if desired.kind == "unicast" else [desired.kind, str(desired.dst)]
    if desired.via is not None:
        words.append(f"via {desired.via}" if desired.via.version == desired.dst.version else f"via inet6 {desired.via}")
    if desired.dev is not None:
        words.append(f"dev {desired.dev}")
    if desired.onlink:
        words.append("onlink")
    if desired.src is not None:
        words.append(f"src {desired.src}")
    if desired.metric:
        words.append(f"metric {desired.metric}")
    return " ".join(words)
