"""Other tables of this host: whether they let the tunnel's and pods' packets pass. Tried with real packets and a copy.

              a copy of one table of the host at a time
peer ── tunnel's port ──▶ ┌──────────────┐
peer ◀── from a pod ───── │ node         │ ◀── pod          three namespaces that are thrown away
                          └──────────────┘
                          with the interface's name and address
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_interface

from msgspec import Struct

from percale.checks.check import Outcome, bad, good, unknown
from percale.checks.host import Host
from percale.checks.scratch import Scratch
from percale.errors import PercaleError
from percale.kernel import sysctl
from percale.kernel.nftables.nft_program import run_nft
from percale.model.ip_family import Family
from percale.render.link_kinds import Veth, VethPeer
from percale.render.network.base_chains import POD_DEVICE_PREFIX
from percale.render.objects import OWNER, Address, Link, Route

_TRIES, _PATIENCE = 3, 0.15
"""Packets, and seconds for each, until they count as dropped."""
_FIRST_ROUNDS = 10
"""Of so many packets, until devices that were just made carry one: a kernel that is busy with others' takes a second and more."""
_POD_NETWORK = IPv4Network("10.244.0.0/16")
_GATEWAY = IPv4Address("169.254.1.1")
_UNDERLAY_PEER, _POD_DEVICE = "peer", f"{POD_DEVICE_PREFIX}check"
_TEST_PORT = 4789
"""Of packets from the pod."""


class Table(Struct, frozen=True):
    """One that is not ours: `ip filter`, and its text."""

    name: str
    text: str

    def chains(self, hook: str) -> list[str]:
        """The base chains there."""
        return re.findall(rf"chain (\S+) \{{[^{{}}]*?hook {hook} ", self.text)


def tunnel(host: Host) -> Outcome | None:
    """From another node to the tunnel's port."""
    port = host.tunnel_port
    if port is None:
        return None
    return _outcome(host, f"UDP {port}", _Copy.tunnel_passes, lambda table: _open_port(table, port))


def pods(host: Host) -> Outcome | None:
    """From a pod to another node, or to the world."""
    if host.backend_type is None:
        return None
    network = _pod_network(host)
    return _outcome(host, "packets of pods", _Copy.pod_passes, lambda table: _open_forwarding(table, network))


def _outcome(
    host: Host, what: str, passes: Callable[[_Copy], bool], commands: Callable[[Table], Sequence[str]]
) -> Outcome | None:
    own = _underlay_address(host)
    if own is None:
        return None  # told by the check of the interface, or IPv6 alone
    untried = []
    try:
        tables = _tables()
        with _Copy.made(*own, _pod_network(host), host.tunnel_port or 0) as copy:
            if not any(passes(copy) for _ in range(_FIRST_ROUNDS)):
                return unknown("no packet passes a copy of this host that has no tables")
            for table in tables:
                passed = copy.with_table(table, passes)
                if passed is False:
                    return bad(f"table {table.name} drops {what}", *commands(table))
                untried += [table.name] if passed is None else []
    except (OSError, PercaleError) as error:
        return unknown(f"not to be tried here: {error}")
    legacy = _legacy_tables(host)
    if untried or legacy:
        names = ", ".join([*untried, *(f"iptables-legacy {name}" for name in legacy)])
        return unknown(f"not known of: {names}", "nft list ruleset", *(["iptables-legacy-save"] if legacy else []))
    names = ", ".join(table.name for table in tables)
    return good(f"tables that let {what} pass: {names}" if names else "there are no tables of others")


def _underlay_address(host: Host) -> tuple[str, IPv4Interface] | None:
    try:
        found = host.interface.families.get(Family.IPV4)
    except PercaleError:
        return None
    if found is None:
        return None
    mine = [each for each in found.interface.addresses if each.version == 4 and each.ip == found.address]
    address = mine[0] if mine else next((each for each in found.interface.addresses if each.version == 4), None)
    return (found.interface.name, address) if isinstance(address, IPv4Interface) else None


def _pod_network(host: Host) -> IPv4Network:
    """Any, where it has IPv6 alone."""
    return next((each for each in host.network_or_default.networks if isinstance(each, IPv4Network)), _POD_NETWORK)


def _tables() -> list[Table]:
    """Others' tables that see IPv4. Raises OSError."""
    found = []
    for line in _printed("nft", "list", "tables").splitlines():
        _, family, name = line.split()
        if family in ("ip", "inet") and not name.startswith(OWNER):
            found.append(Table(f"{family} {name}", _printed("nft", "-s", "list", "table", family, name)))
    return found


def _legacy_tables(host: Host) -> list[str]:
    """Those of x_tables, which are in no nft table; they exist once somebody has asked for them."""
    try:
        return (host.proc / "net/ip_tables_names").read_text().split()
    except OSError:
        return []


def _printed(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class _Copy:
    """A node, a peer and a pod."""

    def __init__(self, node: Scratch, peer: Scratch, pod: Scratch, address: IPv4Interface, port: int) -> None:
        self._node = node
        self._stack = ExitStack()
        self._target = (str(address.ip), port)
        self._outside = (str(_neighbour(address)), _TEST_PORT)
        self._on_node = self._socket(node, self._target)
        self._at_peer = self._socket(peer, self._outside)
        self._in_pod = self._socket(pod, None)

    @classmethod
    @contextmanager
    def made(cls, device: str, address: IPv4Interface, pods: IPv4Network, port: int) -> Iterator[_Copy]:
        """Raises OSError, KernelError."""
        pod = ip_interface(f"{pods[10]}/32")
        peer = ip_interface(f"{_neighbour(address)}/{min(address.network.prefixlen, 30)}")
        address = IPv4Interface(f"{address.ip}/{min(address.network.prefixlen, 30)}")
        with Scratch() as node, Scratch() as other, Scratch() as inside:
            for netns in (node, other, inside):
                netns.run(_forward_all)
            _pair(node, other, device)
            _pair(node, inside, _POD_DEVICE)
            gateway = ip_interface(f"{_GATEWAY}/32")
            node.apply(Address(device, address), Address(_POD_DEVICE, gateway), Route(pod.network, _POD_DEVICE))
            other.apply(Address(_UNDERLAY_PEER, peer), Route(pods, _UNDERLAY_PEER, address.ip))
            everything = Family.IPV4.everything
            inside.apply(Address(_UNDERLAY_PEER, pod), Route(gateway.network, _UNDERLAY_PEER))
            inside.apply(Route(everything, _UNDERLAY_PEER, _GATEWAY, onlink=True))
            copy = cls(node, other, inside, address, port)
            with copy._stack:
                yield copy

    def tunnel_passes(self) -> bool:
        return _arrives(self._at_peer, self._target, self._on_node)

    def pod_passes(self) -> bool:
        return _arrives(self._in_pod, self._outside, self._at_peer)

    def with_table(self, table: Table, passes: Callable[[_Copy], bool]) -> bool | None:
        """Whether packets pass it; None if it cannot be copied."""
        try:
            self._load(table)
        except OSError:
            return None
        try:
            return passes(self)
        finally:
            self._node.run(lambda: run_nft(f"delete table {table.name}\n"))

    def _load(self, table: Table) -> None:
        try:
            self._node.run(lambda: run_nft(table.text))
        except OSError:  # matches of iptables that nft has no words for
            family, name = table.name.split()
            if family != "ip":
                raise
            rules = _printed("iptables-save", "-t", name)
            self._node.run(lambda: _restore(rules))

    def _socket(self, netns: Scratch, address: tuple[str, int] | None) -> socket.socket:
        made = netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._stack.enter_context(closing(made))
        if address is not None:
            made.bind(address)
        made.settimeout(_PATIENCE)
        return made


def _forward_all() -> None:
    for name, value in (("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0"), ("ip_forward", "1")):
        sysctl.write(f"net/ipv4/{name}", value)


def _restore(rules: str) -> None:
    done = subprocess.run(["iptables-restore"], input=rules, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise OSError(done.stderr.strip())


def _neighbour(address: IPv4Interface) -> IPv4Address:
    network = IPv4Interface(f"{address.ip}/{min(address.network.prefixlen, 30)}").network
    return next(each for each in network.hosts() if each != address.ip)


def _pair(here: Scratch, there: Scratch, device: str) -> None:
    """Veth; the other end is called `peer`."""
    here.apply(Link(device, Veth(VethPeer(_UNDERLAY_PEER, there.descriptor))))
    there.apply(Link(_UNDERLAY_PEER, Veth()))


def _arrives(sender: socket.socket, target: tuple[str, int], receiver: socket.socket) -> bool:
    for number in range(_TRIES):
        sender.sendto(b"%d" % number, target)
        try:
            receiver.recv(64)
        except TimeoutError:
            continue
        return True
    return False


def _open_port(table: Table, port: int) -> list[str]:
    if table.name == "inet firewalld":
        return [f"firewall-cmd --permanent --add-port={port}/udp", "firewall-cmd --reload"]
    if "ufw-" in table.text:
        return [f"ufw allow {port}/udp"]
    if table.name == "ip filter" and "chain INPUT {" in table.text:
        return [f"iptables -I INPUT -p udp --dport {port} -j ACCEPT"]
    return [f"nft insert rule {table.name} {chain} udp dport {port} accept" for chain in table.chains("input")]


def _open_forwarding(table: Table, pods: IPv4Network) -> list[str]:
    if table.name == "inet firewalld":
        return [f"firewall-cmd --permanent --zone=trusted --add-source={pods}", "firewall-cmd --reload"]
    if "ufw-" in table.text:
        return [f"ufw route allow from {pods}", f"ufw route allow to {pods}"]
    if table.name == "ip filter" and "chain FORWARD {" in table.text:
        return [f"iptables -I FORWARD {way} {pods} -j ACCEPT" for way in ("-s", "-d")]
    return [
        f"nft insert rule {table.name} {chain} ip {way} {pods} accept"
        for chain in table.chains("forward")
        for way in ("saddr", "daddr")
    ]
