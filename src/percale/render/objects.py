"""Desired kernel objects as values: links, addresses, routes, neighbours, FDB entries, WireGuard's peers, shapers.

Backends and `render/network` make them (pure), `kernel/` applies them. Two objects with the same `key` are one kernel object;
one that equals the actual object costs nothing. `kernel/commands.py` formats each as a command of `ip`, `bridge`, `wg` or `tc`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPAddress, IPInterface, IPNetwork
from percale.render.link_kinds import LinkKind, lower_mac
from percale.secret import Secret

OWNER = "percale"
"""The owner's mark on all our objects: link alias, nft table name. Cleanup deletes by it."""

ROUTE_PROTOCOL = 112
"""Our routes' and neighbours' protocol number (`ip route show proto 112`); unused in iproute2's rt_protos."""

Key: TypeAlias = tuple[object, ...]


class Link(Struct, frozen=True):
    """A network device. `kind` None: not ours to create (lo, eth0), only its settings are declared.

    A setting that is None is left as it is. `alias` is the owner's mark on a device of ours. Without `arp` the device neither
    answers ARP nor learns neighbours from it.
    """

    name: str
    kind: LinkKind | None = None
    up: bool = True
    mtu: int | None = None
    mac: str | None = None
    master: str | None = None
    hairpin: bool | None = None
    arp: bool | None = None
    alias: str = OWNER

    def __post_init__(self) -> None:
        lower_mac(self, self.mac)

    @property
    def key(self) -> Key:
        return ("link", self.name)


class Address(Struct, frozen=True):
    """An address on a device; IPv6 ones skip duplicate detection, so they work at once."""

    dev: str
    address: IPInterface

    @property
    def key(self) -> Key:
        return ("address", self.dev, self.address)


class Route(Struct, frozen=True):
    """A route in the main table, ours by its protocol number. Without `via` its scope is link."""

    dst: IPNetwork
    dev: str | None = None
    via: IPAddress | None = None
    onlink: bool = False
    src: IPAddress | None = None
    metric: int = 0
    kind: Literal["unicast", "blackhole", "unreachable"] = "unicast"

    @property
    def key(self) -> Key:
        # Numbers, for networks are slow to hash, and the reconciler's state is indexed by keys.
        return ("route", self.dst.version, int(self.dst.network_address), self.dst.prefixlen, self.metric)


class Neighbour(Struct, frozen=True):
    """A permanent neighbour: `address` on `dev` is `mac`."""

    dev: str
    address: IPAddress
    mac: str

    def __post_init__(self) -> None:
        lower_mac(self, self.mac)

    @property
    def key(self) -> Key:
        return neighbour_key(self.dev, self.address)


def neighbour_key(dev: str, address: IPAddress) -> Key:
    """The key of the neighbour at this address."""
    return ("neighbour", dev, address.version, int(address))


class FdbEntry(Struct, frozen=True):
    """A permanent forwarding entry of a vxlan device: frames for `mac` go to the VTEP at `dst`."""

    dev: str
    mac: str
    dst: IPAddress

    def __post_init__(self) -> None:
        lower_mac(self, self.mac)

    @property
    def key(self) -> Key:
        return ("fdb", self.dev, self.mac)


class WireguardDevice(Struct, frozen=True):
    """What a wireguard device has of its own. It goes with the device."""

    dev: str
    private_key: Secret | None
    port: int
    mark: int = 0
    """Of the packets that it sends."""

    @property
    def key(self) -> Key:
        return ("wireguard", self.dev)


class Endpoint(NamedTuple):
    """Where a peer takes packets, by UDP."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}" if self.address.version == 4 else f"[{self.address}]:{self.port}"


class WireguardPeer(Struct, frozen=True):
    """Packets to `allowed` go to this peer, and of its packets only those with such a source are taken.

    A network is one peer's: who declares it last has it. The kernel changes the endpoint, too: to where the peer sends from.
    `keepalive` is in seconds, 0: none.
    """

    dev: str
    public_key: str
    endpoint: Endpoint | None
    allowed: frozenset[IPNetwork]
    preshared_key: Secret | None = None
    keepalive: int = 0

    @property
    def key(self) -> Key:
        return ("peer", self.dev, self.public_key)


class Shaper(Struct, frozen=True):
    """A token bucket (tbf) at a device's root: `rate` and `burst` in bits a second and bits, latency 25 ms."""

    dev: str
    rate: int
    burst: int

    @property
    def key(self) -> Key:
        return ("shaper", self.dev)


class Redirect(Struct, frozen=True):
    """All ingress of `dev` passes through `to` first (an ifb whose shaper limits it)."""

    dev: str
    to: str

    @property
    def key(self) -> Key:
        return ("redirect", self.dev)


class Sysctl(Struct, frozen=True):
    """A sysctl of this namespace, such as `net/ipv4/ip_forward`; never reverted, for others may rely on it."""

    name: str
    value: str

    @property
    def key(self) -> Key:
        return ("sysctl", self.name)


WIREGUARD = (WireguardDevice, WireguardPeer)
"""Objects whose changes by others are no events."""
WireguardObject: TypeAlias = WireguardDevice | WireguardPeer
KernelObject: TypeAlias = Link | Address | Route | Neighbour | FdbEntry | WireguardObject | Shaper | Redirect | Sysctl
