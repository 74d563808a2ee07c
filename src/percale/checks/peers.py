"""Other nodes: whether packets reach them and come back, small and large ones, and whether the kernel has what leads there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from ipaddress import ip_address
from socket import if_indextoname

from msgspec import Struct

from percale.agent import status
from percale.backend.interface_selection import local_node
from percale.backend.lease_conflicts import LeaseConflicts, refusal
from percale.backend.protocol import Backend
from percale.backend.registry import make_backend
from percale.checks.check import Outcome, bad, doubtful, good, unknown
from percale.checks.commands import doctor, on_node, restart
from percale.checks.echo import Echo, answered
from percale.checks.host import Host
from percale.counted import counted
from percale.errors import PercaleError
from percale.kernel.commands import format_object
from percale.kernel.netlink.route import RouteQuery
from percale.kernel.rtnl.path_lookup import PathTables, read_counters
from percale.model.addresses import IPAddress, parse_network
from percale.model.ip_family import Family
from percale.model.netconf import NetworkConfig
from percale.model.subnet_lease import SubnetLease
from percale.render.objects import FdbEntry, KernelObject, Neighbour, Route

_MOST = 16
"""Peers that are asked."""
_SIZES = (1430, 1400, 1380, 1350, 1300, 1280, 1250, 1230, 1200, 1150, 1000, 800, 576)
"""Of packets, in bytes: what is tried where large ones are lost."""
_HEALED_WITHIN = 1.5
"""Seconds in which the agent restores what others delete."""


class Gateway(Struct, frozen=True):
    """An address of a peer by which its pods are reached. `direct`: without a tunnel."""

    node: str
    outer: IPAddress
    inner: IPAddress
    dev: str
    direct: bool


def reached(host: Host) -> Outcome | None:
    """Asked through the tunnel and beside it: the difference tells whether the tunnel or the node is not reached."""
    if host.status is None or host.backend_type is None:
        return None
    peers = _asked(host.status.peers)
    if not peers:
        return good("there is no other node")
    gateways = [each for peer in peers for each in _gateways(host, peer)]
    try:
        before = _wrong_checksums()
        replies = answered(Echo(address) for each in gateways for address in (each.outer, each.inner))
        refused = _wrong_checksums() - before
    except OSError as error:
        return unknown(f"not to be tried here: {error.strerror}")
    silent = [each for each in gateways if Echo(each.inner) not in replies]
    if silent:
        return _unreached(host, silent, replies, refused)
    left_out = [peer for peer in peers if not peer.reached and peer.problem]
    if left_out:
        return bad(f"{left_out[0].node}: {left_out[0].problem}", "percale status")
    return good(f"{', '.join(peer.node for peer in peers)} answer")


def _asked(peers: Sequence[status.Peer]) -> Sequence[status.Peer]:
    return sorted(peers, key=lambda peer: peer.problem is None)[:_MOST]


def _gateways(host: Host, peer: status.Peer) -> Iterator[Gateway]:
    subnets = set(map(parse_network, peer.subnets))
    outer = {address.version: address for address in map(ip_address, peer.publicIPs)}
    for route in host.owned:
        if isinstance(route, Route) and route.dst in subnets and route.dev is not None and outer:
            direct = peer.path == "direct"
            at = outer.get(route.dst.version, next(iter(outer.values())))
            inner = route.via if direct and route.via is not None else route.dst.network_address
            yield Gateway(peer.node, at, inner, route.dev, direct)


def _wrong_checksums() -> int:
    """Packets that this node has dropped for the checksum of their UDP header, as their sender's device wrote it."""
    counters = read_counters()
    return counters.get("UdpInCsumErrors", 0) + counters.get("Udp6InCsumErrors", 0)


def _unreached(host: Host, silent: Sequence[Gateway], replies: set[Echo], refused: int) -> Outcome:
    """`refused`: packets with a wrong checksum that came meanwhile."""
    first = silent[0]
    more = f" (and {len(silent) - 1} more)" if silent[1:] else ""
    pinned = next(
        (each for each in host.neighbours if each.dst == first.outer and each.permanent and not each.ours), None
    )
    if pinned is not None:
        return bad(
            f"{first.node} does not answer at {first.outer}{more}, for which somebody has written the MAC {pinned.mac}",
            f"ip neighbour delete {first.outer} dev {if_indextoname(pinned.index)}",
        )
    if first.direct or Echo(first.outer) not in replies:
        return bad(
            f"{first.node} does not answer at {first.outer}{more}",
            f"ping -c 3 {first.outer}   # is it up, and does the network between pass packets?",
            doctor(host, f"on {first.node}"),
        )
    if refused:
        return bad(
            f"{first.node} answers at {first.outer}, and what it sends through {first.dev} has wrong checksums: "
            f"{counted(refused, 'packet')} dropped (Udp:InCsumErrors){more}",
            on_node(host, first.node, f"ethtool -K {first.dev} tx-checksum-ip-generic off"),
        )
    device = host.status.interface if host.status is not None else None
    port = host.tunnel_port
    words = f"UDP {port}" if port is not None else "its packets"
    pattern = f"udp port {port} and host {first.outer}" if port is not None else f"host {first.outer}"
    return bad(
        f"{first.node} answers at {first.outer}, and not through {first.dev}: {words} is lost{more}",
        doctor(host, f"here and on {first.node}: tunnel-filter names a table that drops it"),
        f"{on_node(host, first.node, f'tcpdump -ni {device} {pattern}')}: if nothing arrives, something between drops it",
    )


def routes(host: Host) -> Outcome | None:
    """By which interface packets for other nodes leave: their answers come to the address of the chosen one."""
    if host.backend_type is None or not host.network_or_default.options.routes_peers:
        return None
    try:
        chosen = host.interface.families
        leases = host.store.list(SubnetLease)
    except PercaleError:
        return None  # told by the checks of the interface and of the store
    others = [
        (lease.spec.node, address, chosen[Family(address.version)])
        for lease in leases
        if lease.spec.node != host.config.node
        for address in lease.spec.public_ips
        if address.version in chosen
    ]
    with closing(PathTables()) as tables:
        for node, address, own in others[:_MOST]:
            device, expected = tables.lookup(RouteQuery(address, own.address), None).device, own.interface.name
            if device not in (None, expected):  # without a route it is not reached, as the check of peers tells
                return doubtful(
                    f"packets to {node} leave by {device}, and {expected} is the interface between nodes",
                    f"ifaceCanReach: {address}   # in the agent's configuration, instead of iface",
                    f"ip route get {address}   # or correct this route",
                )
    return good(f"packets to {counted(len({node for node, _, _ in others}), 'peer')} leave by it") if others else None


def large_packets(host: Host) -> Outcome | None:
    """As large as pods may send, the whole way there and back."""
    if host.status is None or host.backend_type is None or not host.status.mtu:
        return None
    gateways = [each for peer in _asked(host.status.peers) for each in _gateways(host, peer)]
    size = host.status.mtu
    try:
        replies = answered(Echo(each.inner, number) for each in gateways for number in (0, size))
        lost = [each for each in gateways if Echo(each.inner) in replies and Echo(each.inner, size) not in replies]
        if lost:
            return _too_large(host, lost[0], size)
    except OSError as error:
        return unknown(f"not to be tried here: {error.strerror}")
    return good(f"packets of {size} bytes pass") if gateways else None


def _too_large(host: Host, gateway: Gateway, size: int) -> Outcome:
    passing = [echo.size for echo in answered(Echo(gateway.inner, number) for number in _SIZES if number < size)]
    best = max(passing, default=0)
    words = f"packets of {size} bytes are lost on the way to {gateway.node}, those of {best} pass"
    device = host.status.interface if host.status is not None else None
    carrier = next((each for each in host.underlay.interfaces if each.name == device), None)
    if not best or carrier is None:
        return bad(words, f"ping -M do -s {size - 28} {gateway.outer}")
    outer = best + carrier.mtu - size
    return bad(words, f"ip link set {device} mtu {outer}   # on all nodes, or Backend.MTU {outer} in the net-conf.json")


def entries(host: Host) -> Outcome | None:
    """What the leases mean, by the agent's own functions, against what the kernel has."""
    if host.network is None or host.backend_type is None:
        return None
    try:
        backend = make_backend(host.network)
        wanted = _wanted(host, backend, host.network)
    except PercaleError:
        return None  # told by the checks of the store and of the interface
    missing = _missing(wanted, host)
    deadline = time.monotonic() + _HEALED_WITHIN
    while missing and host.status is not None and time.monotonic() < deadline:
        time.sleep(0.1)
        missing = _missing(wanted, host)
    if missing:
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        return bad(f"the kernel lacks: {format_object(missing[0])}{more}", restart(host))
    return good(f"routes, neighbours and forwarding entries are there, {len(wanted)} in all")


def _wanted(host: Host, backend: Backend, network: NetworkConfig) -> list[KernelObject]:
    leases = host.store.list(SubnetLease)
    mine = next((each for each in leases if each.spec.node == host.config.node), None)
    if mine is None:
        return []
    local = local_node(host.config.node, host.interface, mine.spec.subnets)
    conflicts = LeaseConflicts(backend.exclusive_ids)
    return [
        each
        for lease in leases
        if lease.spec.node != local.name
        and refusal(local, network.networks, lease) is None
        and conflicts.admit(lease) is None
        for each in backend.peer(local, lease).objects
        if isinstance(each, Route | Neighbour | FdbEntry)
    ]


def _missing(wanted: Sequence[KernelObject], host: Host) -> list[KernelObject]:
    there = {each.key: each for each in host.owned}
    return [each for each in wanted if there.get(each.key) != each]
