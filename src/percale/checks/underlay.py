"""The interface between nodes: which one, its MTU, and the tunnel's port."""

from __future__ import annotations

import errno
import socket
from contextlib import closing

from percale.backend.vxlan import OVERHEAD
from percale.checks.check import Outcome, bad, good, unknown
from percale.checks.host import Host
from percale.errors import BadConfig, PercaleError
from percale.model.ip_family import Family
from percale.render.link_kinds import Vxlan


def interface(host: Host) -> Outcome | None:
    """The same choice as the agent's."""
    if host.config.backend == "none":
        return None
    try:
        found = host.interface.families
    except BadConfig as error:
        return bad(error.what, "ip -br address", f"PERCALE_IFACE=NAME percale preflight   # {error.hint}")
    return good(", ".join(sorted({f"{each.interface.name} with {each.address}" for each in found.values()})))


def mtu(host: Host) -> Outcome | None:
    """Room for the tunnel's headers, and one MTU for all nodes."""
    if not host.tunnels:
        return None
    try:
        found = next(iter(host.interface.families.values())).interface
    except PercaleError:
        return None  # told by the check of the interface
    asked = host.vxlan.mtu
    if asked > found.mtu:
        words = f"Backend.MTU is {asked}, that of {found.name} is {found.mtu}"
        return bad(words, f"ip link set {found.name} mtu {asked}   # or Backend.MTU {found.mtu} in the net-conf.json")
    overhead = max(OVERHEAD[family] for family in host.families)
    left = (asked or found.mtu) - overhead
    least = 1280 if Family.IPV6 in host.families else 576
    if left < least:
        words = f"{found.name} has an MTU of {found.mtu}: {left} are left for pods, who need {least}"
        return bad(words, f"ip link set {found.name} mtu {least + overhead}")
    return good(f"{found.name} has {found.mtu}, pods get {left}")


def tunnel_port(host: Host) -> Outcome | None:
    """Whether a vxlan device can have it: others' programs and other kinds of tunnels cannot share it."""
    if not host.tunnels:
        return None
    port = host.vxlan.port
    devices = [(link.name, link.kind) for link in host.links if isinstance(link.kind, Vxlan) and link.kind.port == port]
    for name, kind in devices:
        if not _shares(name, kind, host.vxlan.vni):
            return bad(f"the device {name} has UDP {port}", f"ip link delete {name}   # and end what made it")
    if devices:
        return good(f"UDP {port} is {devices[0][0]}'s")
    for family in host.families:
        if (error := _bind_error(family, port)) is not None:
            if error.errno == errno.EADDRINUSE:
                return bad(
                    f"a program has UDP {port}", f"ss -lunp 'sport = :{port}'", "end it, or write another Backend.Port"
                )
            return unknown(f"UDP {port}: {error.strerror}")
    return good(f"UDP {port} is free")


def _shares(name: str, kind: Vxlan, vni: int) -> bool:
    """Ours or flannel's, or one with another number. One without a number takes all that comes to the port."""
    return kind.vni not in (0, vni) or name.startswith("flannel")


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
