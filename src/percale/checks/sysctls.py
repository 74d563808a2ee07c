"""Sysctls that packets depend on."""

from __future__ import annotations

from percale.checks.check import Outcome, bad, doubtful, good
from percale.checks.host import Host
from percale.errors import PercaleError
from percale.kernel import sysctl
from percale.model.ip_family import Family

_FORWARDING = {Family.IPV4: "net/ipv4/ip_forward", Family.IPV6: "net/ipv6/conf/all/forwarding"}
_BRIDGE_NF_CALL = {
    Family.IPV4: "net/bridge/bridge-nf-call-iptables",
    Family.IPV6: "net/bridge/bridge-nf-call-ip6tables",
}
LOOSE = "sysctl -w net.ipv4.conf.all.rp_filter=2"
"""What counts is the larger one of a device's and this."""


def forwarding(host: Host) -> Outcome:
    """The agent of an own network sets it; what is written for the next boot may set it back."""
    off = [_FORWARDING[family] for family in host.families if _value(_FORWARDING[family]) == "0"]
    if not off:
        return good(
            ", ".join(f"{_dotted(_FORWARDING[family])} is {_value(_FORWARDING[family])}" for family in host.families)
        )
    words = [f"{_dotted(name)} is 0" for name in off]
    commands = [f"sysctl -w {_dotted(name)}=1" for name in off]
    return doubtful(", ".join(words), *commands)


def reverse_path(host: Host) -> Outcome | None:
    """Strict filtering where packets have several ways: what comes back by another one is dropped, and nothing says so.

    With a tunnel alone the agent sees to that (`agent/service/node_services.py`).
    """
    try:
        names = sorted({found.interface.name for family, found in host.interface.families.items() if family == 4})
    except PercaleError:
        return None  # told by the check of the interface
    strict = [name for name in names if sysctl.reverse_path_filter(name) == sysctl.STRICT]
    others = [
        each.name
        for each in host.underlay.interfaces
        if each.name not in names and each.up and any(not a.is_loopback and not a.is_link_local for a in each.addresses)
    ]
    if strict and others:
        return doubtful(
            f"net.ipv4.conf.{strict[0]}.rp_filter is 1 (strict), and there is {', '.join(others)} beside {strict[0]}",
            LOOSE,
        )
    return good(
        f"rp_filter of {', '.join(names)} is {', '.join(str(sysctl.reverse_path_filter(name)) for name in names)}"
    )


def bridge_netfilter(host: Host) -> Outcome | None:
    """Where pods are on a bridge, ours or another plugin's."""
    if host.backend_type is not None and host.config.cni.wiring != "bridge":
        return None
    names = [_BRIDGE_NF_CALL[family] for family in host.families]
    if all(_value(name) is None for name in names):
        load = "echo br_netfilter >> /etc/modules-load.d/percale.conf"
        return bad("there is no /proc/sys/net/bridge: br_netfilter is not loaded", "modprobe br_netfilter", load)
    off = [name for name in names if _value(name) != "1"]
    if off:
        return doubtful(
            ", ".join(f"{_dotted(name)} is {_value(name)}" for name in off),
            *(f"sysctl -w {_dotted(name)}=1" for name in off),
        )
    return good(f"{_dotted(names[0])} is 1")


def _value(name: str) -> str | None:
    try:
        return sysctl.read(name)
    except OSError:
        return None


def _dotted(name: str) -> str:
    return name.replace("/", ".")
