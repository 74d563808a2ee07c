"""The kinds of devices that we create, as values: one class each, tagged with the kernel's name for it.

`kernel/netlink/link_kinds` has a codec per kind. A new kind is a class here, a codec there, and its line in the registry.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from msgspec import Struct
from msgspec.structs import force_setattr

from percale.model.addresses import IPAddress


class LinkKind(Struct, frozen=True):
    """What devices of one kind have beside all others' settings (`Link`)."""

    @property
    def name(self) -> str:
        """The kernel's: `ip link add … type NAME`."""
        return str(self.__struct_config__.tag)

    @property
    def lower(self) -> str | None:
        """The device that one of this kind is created on and goes with."""
        return None

    def without_descriptors(self) -> LinkKind:
        """The same without open descriptors, which serve its creation only."""
        return self


class Vxlan(LinkKind, frozen=True, tag="vxlan"):
    """A change of any attribute but `learning` requires a new device."""

    vni: int
    local: IPAddress
    dev: str
    port: int = 8472
    learning: bool = False
    gbp: bool = False

    @property
    def lower(self) -> str | None:
        return self.dev


class Ipip(LinkKind, frozen=True, tag="ipip"):
    """IPv4 in IPv4, from this address to each route's gateway. Without a local address `tunl0` would take the packets."""

    local: IPv4Address


class Wireguard(LinkKind, frozen=True, tag="wireguard"):
    """An encrypted tunnel. Its key, port and peers are objects of their own: `objects.py`."""


class Bridge(LinkKind, frozen=True, tag="bridge"):
    """What a bridge learns from its ports beside source MACs; both can be abused by pods. None: left as it is.

    `snooping` is multicast snooping; `reserved` is learning from frames to link-local addresses, which are never forwarded
    (LLDP and the like) and bypass all nft tables.
    """

    snooping: bool | None = None
    reserved: bool | None = None


class VethPeer(Struct, frozen=True):
    """The other end of a veth pair; `namespace` is an open descriptor of the namespace it is created in (None: this one)."""

    name: str
    namespace: int | None = None
    mac: str | None = None
    mtu: int | None = None

    def __post_init__(self) -> None:
        lower_mac(self, self.mac)


class Veth(LinkKind, frozen=True, tag="veth"):
    """One end of a pair. Without `peer` it can be changed, but not created; the kernel does not report it."""

    peer: VethPeer | None = None

    def without_descriptors(self) -> LinkKind:
        return self if self.peer is None or self.peer.namespace is None else Veth()


class Ifb(LinkKind, frozen=True, tag="ifb"):
    """Takes what is redirected to it, for a shaper."""


class Tun(LinkKind, frozen=True, tag="tun"):
    """Its packets are carried by a program, without which it stays."""


def lower_mac(obj: Struct, mac: str | None) -> None:
    """Hardware addresses are compared as text, and the kernel's are in lower case."""
    if mac is not None and not mac.islower():
        force_setattr(obj, "mac", mac.lower())
