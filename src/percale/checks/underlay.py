"""The interface between nodes: which one, its MTU, and the tunnel's ports."""

from __future__ import annotations

import errno
import socket
from contextlib import closing

from percale.backend.node_checks import LEAST_MTU
from percale.backend.protocol import LocalNode
from percale.checks.check import Outcome, bad, good, unknown
from percale.checks.host import Host
from percale.errors import BadConfig, PercaleError
from percale.model.backend_options import BackendOptions, VxlanOptions
from percale.model.ip_family import Family
from percale.render.link_kinds import Tun, Vxlan, Wireguard
from percale.render.objects import Link

_OWN_DEVICES = "flannel"
"""The names of all backends' devices begin with this, ours and flannel's."""


def interface(host: Host) -> Outcome | None:
    """The same choice as the agent's."""
    if host.backend_type is None:
        return None
    try:
        found = host.interface.families
    except BadConfig as error:
        return bad(error.what, "ip -br address", f"PERCALE_IFACE=NAME percale preflight   # {error.hint}")
    return good(", ".join(sorted({f"{each.interface.name} with {each.address}" for each in found.values()})))


def mtu(host: Host) -> Outcome | None:
    """Room for the backend's headers, and one MTU for all nodes."""
    node = _node(host)
    if node is None:
        return None
    narrow = min((each.interface for each in node.families.values()), key=lambda each: each.mtu)
    asked, device = host.network_or_default.options.mtu, narrow.name
    if asked > narrow.mtu:
        words = f"Backend.MTU is {asked}, that of {device} is {narrow.mtu}"
        return bad(words, f"ip link set {device} mtu {asked}   # or Backend.MTU {narrow.mtu} in the net-conf.json")
    left, least = host.backend.pod_mtu(node), max(LEAST_MTU[family] for family in node.families)
    if left < least:
        outer = (asked or narrow.mtu) + least - left
        words = f"{device} has an MTU of {narrow.mtu}: {left} are left for pods, who need {least}"
        also = f"   # and Backend.MTU {outer} in the net-conf.json" if asked else ""
        return bad(words, f"ip link set {device} mtu {max(outer, narrow.mtu)}{also}")
    return good(f"{device} has {narrow.mtu}, pods get {left}")


def tunnel_port(host: Host) -> Outcome | None:
    """Whether the tunnel can have its ports: others' programs and other kinds of tunnels cannot share them."""
    node = _node(host)
    ends = host.backend.tunnel_ends(node) if node is not None else ()
    found = [_port(host, Family(end.address.version), end.port) for end in ends if end.port is not None]
    wrong = next((each for each in found if each.result != "ok"), None)
    return wrong or (good(", ".join(dict.fromkeys(each.evidence for each in found))) if found else None)


def _node(host: Host) -> LocalNode | None:
    """None: another plugin's network, or what the check of the interface tells."""
    try:
        return host.node if host.backend_type is not None else None
    except PercaleError:
        return None


def _port(host: Host, family: Family, port: int) -> Outcome:
    options = host.network_or_default.options
    for link in host.links:
        if isinstance(link.kind, Vxlan) and link.kind.port == port and not _shares(link.name, link.kind, options):
            return bad(f"the device {link.name} has UDP {port}", f"ip link delete {link.name}   # and end what made it")
    own = next((link.name for link in host.links if _is_tunnel(link, port, options)), None)
    if own is not None:
        return good(f"UDP {port} is {own}'s")
    if (error := _bind_error(family, port)) is None:
        return good(f"UDP {port} is free")
    if error.errno != errno.EADDRINUSE:
        return unknown(f"UDP {port}: {error.strerror}")
    setting = "ListenPort" if host.backend_type == "wireguard" else "Port"
    return bad(
        f"a program has UDP {port}", f"ss -lunp 'sport = :{port}'", f"end it, or write another Backend.{setting}"
    )


def _shares(name: str, kind: Vxlan, options: BackendOptions) -> bool:
    """Ours or flannel's, or one with another number. One without a number takes all that comes to the port."""
    return isinstance(options, VxlanOptions) and (kind.vni not in (0, options.vni) or name.startswith(_OWN_DEVICES))


def _is_tunnel(link: Link, port: int, options: BackendOptions) -> bool:
    """One of the network's kind that is here already, with the port; of which only vxlan's tell their ports."""
    if isinstance(link.kind, Vxlan):
        return link.kind.port == port
    return isinstance(link.kind, (Tun, Wireguard)) and link.name.startswith(_OWN_DEVICES)


def _bind_error(family: Family, port: int) -> OSError | None:
    kind = socket.AF_INET if family == Family.IPV4 else socket.AF_INET6
    with closing(socket.socket(kind, socket.SOCK_DGRAM)) as probe:
        if kind == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return error
    return None
