"""The wireguard backend: encrypted tunnels between all nodes, each with a key that it makes itself and publishes in its lease.

    10.244.2.7 ─ route 10.244.2.0/24 dev flannel-wg ─ the peer whose allowed networks have it ─ encrypted to its endpoint

Of a peer's packets only those from its own networks are taken: its pods', and what the node itself sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

from msgspec import Struct

from percale.backend.interface_selection import tunnel_source
from percale.backend.node_checks import require_mtu_of_families
from percale.backend.peer_path import UnusableFamily, paths, type_problem
from percale.backend.protocol import ExclusiveId, KernelBackend, LocalFamily, LocalNode, PeerObjects
from percale.backend.wireguard.key_file import KeyPair, create_key, is_kept, load_key
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.backend_options import WireguardOptions
from percale.model.ip_family import Family
from percale.model.subnet_lease import LeasedFamily, SubnetLease, SubnetLeaseSpec
from percale.model.wireguard_key import decode_key
from percale.render.link_kinds import Wireguard
from percale.render.network.tunnels import TunnelEnd
from percale.render.objects import Address, Endpoint, KernelObject, Link, Route, WireguardDevice, WireguardPeer
from percale.secret import Secret

OVERHEAD = 80
"""Bytes: IPv6, UDP, type, index, counter and tag. flannel takes it over IPv4, too, where 60 would do: all nodes have one MTU."""


class _Tunnel(Struct, frozen=True):
    """What goes to a peer by one device."""

    device: str
    address: IPAddress
    """Of the endpoint."""
    fields: Mapping[str, Any]
    """Of its backend data."""
    port: int
    """For a lease without one."""
    subnets: tuple[IPNetwork, ...]
    addresses: tuple[IPAddress, ...]
    """The peer's own, by which it is reached."""


class WireguardBackend(KernelBackend):
    """See `Backend`."""

    type = "wireguard"
    keeps_state = True
    _directory: Path
    _keys = KeyPair(Secret(b""), "")
    """This one before `load`: `percale doctor` asks for peers' objects alone, and makes no key."""

    def __init__(self, options: WireguardOptions) -> None:
        self._options = options

    def load(self, directory: Path) -> None:
        """The private key, which is made at the first start."""
        self._directory = directory
        self._keys = load_key(directory)

    @property
    def key_renewal(self) -> Callable[[], bool]:
        """Of the private key."""
        return self.renew_key

    def renew_key(self) -> bool:
        """Make another key where somebody has removed the one on disk. True: publish it. Blocks; raises StateError."""
        if is_kept(self._directory):
            return False
        self._keys = create_key(self._directory)
        return True

    def pod_mtu(self, node: LocalNode) -> int:
        """The smaller one of both families' interfaces."""
        return min(self._mtu(each) for each in node.families.values())

    def lease_data(self, node: LocalNode) -> Mapping[Family, dict[str, Any]]:
        """`{"PublicKey":"…","Port":51820}`. With one device both families have its port: flannel publishes ListenPortV6."""
        return {family: {"PublicKey": self._keys.public, "Port": self._port(family)} for family in node.families}

    def exclusive_ids(self, spec: SubnetLeaseSpec) -> Iterator[ExclusiveId]:
        """The public key of each family."""
        for each in spec.families:
            if isinstance(key := each.fields.get("PublicKey"), str):
                yield ExclusiveId("public key", key, each.family)

    def check(self, node: LocalNode) -> None:
        """The MTU must leave room for the smallest packet."""
        require_mtu_of_families(self.type, node, {family: self._mtu(local) for family, local in node.families.items()})

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        """One or two tunnels, with the first addresses of the node's subnets."""
        made: dict[str, list[KernelObject]] = {}
        for family, local in node.families.items():
            if not any(each in self._carriers(family) for each in _sources(node)):
                continue  # no underlay yet
            device = self._device(family)
            if device not in made:
                link = Link(device, Wireguard(), mtu=self._device_mtu(node, family))
                made[device] = [link, WireguardDevice(device, self._keys.private, self._port(family))]
            made[device].append(Address(device, ip_interface(local.subnet.network_address)))
        return tuple(obj for objects in made.values() for obj in objects)

    def tunnel_ends(self, node: LocalNode) -> tuple[TunnelEnd, ...]:
        """The local address of each family; a single device takes packets at both."""
        return tuple(TunnelEnd(source, self._port(family)) for family, source in _sources(node).items())

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        """A peer and its routes, per device. Its problem: another backend, or no usable key."""
        if (other := type_problem(self.type, lease)) is not None:
            return PeerObjects(problem=other)
        objects: list[KernelObject] = []
        addresses: list[IPAddress] = []
        problem = None
        for tunnel in self._tunnels(node, lease):
            try:
                objects.append(self._peer(tunnel))
            except UnusableFamily as error:
                problem = problem or str(error)
            else:
                objects += (Route(subnet, tunnel.device) for subnet in tunnel.subnets)
                addresses += tunnel.addresses
        return PeerObjects(tuple(objects), tuple(addresses), problem)

    def _peer(self, tunnel: _Tunnel) -> WireguardPeer:
        """Raises UnusableFamily."""
        key, port = tunnel.fields.get("PublicKey"), tunnel.fields.get("Port") or tunnel.port
        try:
            decode_key(key if isinstance(key, str) else "")
        except ValueError as error:
            raise UnusableFamily(f"no usable PublicKey in its backend data: {key!r}") from error
        assert isinstance(key, str)
        if key == self._keys.public:
            raise UnusableFamily("its PublicKey is this node's: a copied disk? delete private.key on one of them")
        if not isinstance(port, int) or not 0 < port < 65536:
            raise UnusableFamily(f"no usable Port in its backend data: {port!r}")
        if self._options.mode != "separate" and port == self._options.listen_port_v6:
            port = self._options.listen_port  # flannel's, which listens there
        return WireguardPeer(
            tunnel.device,
            key,
            Endpoint(tunnel.address, port),
            frozenset((*tunnel.subnets, *map(ip_network, tunnel.addresses))),
            self._options.psk,
            self._options.persistent_keepalive_interval,
        )

    def _tunnels(self, node: LocalNode, lease: SubnetLease) -> Iterator[_Tunnel]:
        """One per family, or one for both."""
        if self._options.mode == "separate":
            for path in paths(node, lease):
                family = Family(path.subnet.version)
                port = self._port(family)
                yield _Tunnel(self._device(family), path.gateway, path.fields, port, (path.subnet,), (path.gateway,))
            return
        theirs = [each for each in lease.spec.families if each.family in node.families]
        address = self._endpoint_address(node, theirs)
        if address is None:
            return
        carriers = [each for each in self._options.underlay_families if _public(node, each) is not None]
        yield _Tunnel(
            self._device(Family.IPV4),
            address,
            next((each.fields for each in theirs if each.fields), {}),
            self._options.listen_port,
            tuple(each.subnet for each in theirs if each.subnet is not None),
            tuple(each.public_ip for each in theirs if each.public_ip is not None and each.family in carriers),
        )

    def _endpoint_address(self, node: LocalNode, theirs: Iterable[LeasedFamily]) -> IPAddress | None:
        """Of a family that both have, as flannel prefers: IPv4, unless IPv6 alone is public on both sides."""
        both = {
            each.family: (mine, each.public_ip)
            for each in theirs
            if each.public_ip is not None
            and each.family in self._options.underlay_families
            and (mine := _public(node, each.family)) is not None
        }
        if len(both) == len(Family) and both[Family.IPV4][1].is_private:
            mine, other = both[Family.IPV6]
            return both[Family.IPV4][1] if mine.is_private or other.is_private else other
        return next((other for _, other in both.values()), None)

    def _device(self, family: Family) -> str:
        return "flannel-wg-v6" if self._options.mode == "separate" and family is Family.IPV6 else "flannel-wg"

    def _port(self, family: Family) -> int:
        v6 = self._options.mode == "separate" and family is Family.IPV6
        return self._options.listen_port_v6 if v6 else self._options.listen_port

    def _carriers(self, family: Family) -> tuple[Family, ...]:
        """The underlay's families by which this family's pods are reached."""
        return (family,) if self._options.mode == "separate" else self._options.underlay_families

    def _device_mtu(self, node: LocalNode, family: Family) -> int:
        separate = self._options.mode == "separate"
        return self._mtu(node.families[family]) if separate else self.pod_mtu(node)

    def _mtu(self, local: LocalFamily) -> int:
        """Of a tunnel; `Backend.MTU` is a limit, for more than the interface's own MTU would be lost."""
        return min(self._options.mtu or local.interface.mtu, local.interface.mtu) - OVERHEAD


def _public(node: LocalNode, family: Family) -> IPAddress | None:
    local = node.families.get(family)
    return local.public_ip if local is not None else None


def _sources(node: LocalNode) -> dict[Family, IPAddress]:
    """Where tunnels of each family with an underlay send from."""
    found = {family: tunnel_source(local) for family, local in node.families.items()}
    return {family: source for family, source in found.items() if source is not None}
