"""What the kernel must be able to do, tried in a network namespace that is thrown away."""

from __future__ import annotations

import errno
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address

from percale.backend.bgp.bird_process import find_bird
from percale.checks.check import Outcome, bad, good, unknown
from percale.checks.host import Host
from percale.checks.scratch import Scratch
from percale.errors import KernelError
from percale.kernel import sysctl
from percale.kernel.nftables.nft_program import run_nft
from percale.model.backend_options import VxlanOptions
from percale.model.ip_family import Family
from percale.render.link_kinds import Bridge, Ipip, Tun, Veth, VethPeer, Vxlan, Wireguard
from percale.render.network.base_chains import network_tables
from percale.render.nft.objects import TableSpec
from percale.render.objects import Link
from percale.render.policy.base_chains import TABLE_SPEC as POLICIES
from percale.render.service.base_chains import TABLE_SPEC as SERVICES

_OLDEST = (5, 15)
_NEWER = "use a newer kernel: on Debian 11, apt-get install -t bullseye-backports linux-image-amd64"
_A, _B = "pcl-check-a", "pcl-check-b"


def version(host: Host) -> Outcome:
    found = re.match(r"(\d+)\.(\d+)", host.release)
    if found is None:
        return unknown(f"a kernel that calls itself {host.release}")
    if tuple(map(int, found.groups())) < _OLDEST:
        return bad(f"Linux {host.release}, older than {'.'.join(map(str, _OLDEST))}", _NEWER)
    return good(f"Linux {host.release}")


def veth(_host: Host) -> Outcome:
    return _devices("veth", [_pair()])


def vxlan(host: Host) -> Outcome | None:
    """On a veth pair, as on any interface."""
    options = host.network_or_default.options
    if host.backend_type is None or not isinstance(options, VxlanOptions):
        return None
    device = Vxlan(options.vni, IPv4Address("192.0.2.1"), _A, options.port, gbp=options.gbp)
    return _devices("vxlan", [_pair(), Link("pcl-check-v", device)])


def tun(host: Host) -> Outcome | None:
    """Its packets are carried by the agent's program."""
    if host.backend_type != "udp":
        return None
    return _devices("tun", [Link("pcl-check-t", Tun())])


def ipip(host: Host) -> Outcome | None:
    if host.backend_type != "ipip":
        return None
    return _devices("ipip", [Link("pcl-check-i", Ipip(IPv4Address("192.0.2.1")))])


def wireguard(host: Host) -> Outcome | None:
    if host.backend_type != "wireguard":
        return None
    return _devices("wireguard", [Link("pcl-check-w", Wireguard())])


def bird(host: Host) -> Outcome | None:
    """The program that speaks BGP. BIRD 1 has other words."""
    if host.backend_type != "bgp":
        return None
    install = "apt-get install bird2"
    program = find_bird()
    if program is None:
        return bad("there is no bird program", install)
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        return bad(f"{program} cannot run: {error}", install)
    said = (done.stdout + done.stderr).strip()
    found = re.search(r"BIRD version (\d+)\.\S*", said)
    if found is None:
        return bad(f"{program} does not say its version: {said}", install)
    return good(found[0]) if found[1] == "2" else bad(f"{found[0]}, not 2", install)


def bridge(host: Host) -> Outcome | None:
    if host.backend_type is None or host.config.cni.wiring != "bridge":
        return None
    return _devices("bridge", [Link("pcl-check-b", Bridge())])


def _pair() -> Link:
    return Link(_A, Veth(VethPeer(_B)))


def _devices(module: str, links: Iterable[Link]) -> Outcome:
    def make(scratch: Scratch) -> None:
        scratch.apply(*links)

    return _tried(module, f"modprobe {module}", make, f"a {module} device can be made")


def nftables(host: Host) -> Outcome:
    """All tables that the agent loads, except the fast path's, which it does without where there is none."""

    def load(scratch: Scratch) -> None:
        scratch.run(lambda: run_nft("".join(f"table {spec.name} {{\n{spec.text}\n}}\n" for spec in _tables(host))))

    try:
        words = subprocess.run(["nft", "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    except FileNotFoundError:
        return bad("there is no nft program", "apt-get install nftables")
    except (OSError, subprocess.SubprocessError) as error:
        return bad(f"nft cannot run: {error}", "apt-get install --reinstall nftables")
    name = " ".join(words.split()[:2])
    return _tried(
        "nf_tables", "modprobe -a nf_tables nft_ct nft_nat nft_masq nft_reject_inet", load, f"{name} loads all tables"
    )


def _tables(host: Host) -> Iterator[TableSpec]:
    if host.backend_type is not None:
        yield from (
            each for each in network_tables() if host.config.cni.wiring == "bridge" or each.name.family != "bridge"
        )
    yield POLICIES
    if host.config.services.enabled and host.backend_type is not None:
        yield SERVICES


def conntrack(_host: Host) -> Outcome:
    """A rule that needs it loads it."""

    def track(scratch: Scratch) -> None:
        rule = "type filter hook input priority 0; ct state established accept;"
        scratch.run(lambda: run_nft(f"table inet check {{ chain input {{\n{rule}\n}}\n}}\n"))
        scratch.run(lambda: sysctl.read("net/netfilter/nf_conntrack_max"))

    return _tried("nf_conntrack", "modprobe nf_conntrack", track, "connections are tracked")


def _tried(module: str, command: str, action: Callable[[Scratch], None], fine: str) -> Outcome:
    try:
        with Scratch() as scratch:
            action(scratch)
    except KernelError as error:
        return _failed(error.errno, f"{error.where}: {error.what}", module, command)
    except OSError as error:
        return _failed(error.errno or 0, error.strerror or str(error), module, command)
    return good(fine)


def _failed(number: int, words: str, module: str, command: str) -> Outcome:
    if number in (errno.EPERM, errno.EACCES):
        return unknown(f"not permitted here: {words}")
    if number == errno.EINVAL and module == "nf_tables":
        return bad(words, command, "apt-get install --only-upgrade nftables")
    return bad(words, command, f"echo {command.rpartition(' ')[2]} >> /etc/modules-load.d/percale.conf")


def ipv6(host: Host) -> Outcome | None:
    """Where the network has it."""
    if Family.IPV6 not in host.families or host.backend_type is None:
        return None
    try:
        disabled = sysctl.read("net/ipv6/conf/all/disable_ipv6") == "1"
    except OSError:
        return bad("this kernel was started without IPv6", "remove ipv6.disable=1 from the kernel's command line")
    if disabled:
        return bad("net.ipv6.conf.all.disable_ipv6 is 1", "sysctl -w net.ipv6.conf.all.disable_ipv6=0")
    return good("IPv6 is enabled")
