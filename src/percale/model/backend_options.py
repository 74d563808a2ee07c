"""Each backend's options as flannel names and bounds them, in one table; `netconf.py` reads a `Backend` object by it.

A backend of a later issue is here already, so that its configuration is read and checked; whether it can be used is for
`backend/registry.py` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Vni = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFF)]
Mtu = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""Of the outer packets; 0 means the interface's own."""
Seconds = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class VxlanOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """Option names as in net-conf.json."""

    vni: Vni = msgspec.field(default=1, name="VNI")
    port: Port = 8472
    mtu: Mtu = msgspec.field(default=0, name="MTU")
    gbp: bool = msgspec.field(default=False, name="GBP")
    learning: bool = False
    direct_routing: bool = False


class HostGwOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None."""


class UdpOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """The port of flannel's userspace tunnel."""

    port: Port = 8285


class IpipOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """Peers without a gateway in between get a plain route when DirectRouting is on."""

    direct_routing: bool = False


class WireguardOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """`PSK` is base64 of 32 bytes."""

    listen_port: Port = 51820
    listen_port_v6: Port = msgspec.field(default=51821, name="ListenPortV6")
    mtu: Mtu = msgspec.field(default=0, name="MTU")
    psk: str | None = msgspec.field(default=None, name="PSK")
    persistent_keepalive_interval: Seconds = 0
    mode: Literal["separate", "auto", "ipv4", "ipv6"] = "separate"


class IpsecOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """`PSK` is required by the backend."""

    psk: Annotated[str, msgspec.Meta(min_length=96)] = msgspec.field(name="PSK")
    udp_encap: bool = msgspec.field(default=False, name="UDPEncap")
    esp_proposal: str = msgspec.field(default="aes128gcm16-sha256-prfsha256-ecp256", name="ESPProposal")


class AllocOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None."""


class ExtensionOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """Shell commands of the operator's own."""

    pre_startup_command: str = ""
    post_startup_command: str = ""
    subnet_add_command: str = ""
    subnet_remove_command: str = ""


BackendOptions: TypeAlias = (
    VxlanOptions
    | HostGwOptions
    | UdpOptions
    | IpipOptions
    | WireguardOptions
    | IpsecOptions
    | AllocOptions
    | ExtensionOptions
)

OPTIONS: Mapping[str, type[BackendOptions]] = {
    "vxlan": VxlanOptions,
    "host-gw": HostGwOptions,
    "udp": UdpOptions,
    "ipip": IpipOptions,
    "wireguard": WireguardOptions,
    "ipsec": IpsecOptions,
    "alloc": AllocOptions,
    "extension": ExtensionOptions,
}

REMOVED = frozenset({"gce", "aws-vpc", "ali-vpc", "tencent-vpc"})
"""flannel's cloud backends: gone or going, but still in people's configurations."""
