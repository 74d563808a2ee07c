"""Each backend's options as flannel names and bounds them, in one table; `netconf.py` reads a `Backend` object by it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable
from typing import Annotated, ClassVar, Literal

import msgspec

from percale.model.ip_family import Family
from percale.secret import Secret

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Vni = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFF)]
Mtu = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""Of the outer packets; 0 means the interface's own."""
Seconds = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class BackendOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """Option names as in net-conf.json, and what follows from them for all nodes alike."""

    families: ClassVar[tuple[Family, ...]] = tuple(Family)
    """What packets it carries."""
    has_device: ClassVar[bool] = False
    """Packets to peers leave by a device of its own, which has the first address of the node's subnet."""
    kernel_alone: ClassVar[bool] = True
    """No program carries packets or brings routes: it can be beside another backend."""
    routes_peers: ClassVar[bool] = True
    """The agent brings the routes to other nodes' subnets."""

    @property
    def uses_underlay_routes(self) -> bool:
        """Packets to some peers leave by the underlay's interface, as they are."""
        return not self.has_device

    @property
    def mtu(self) -> Mtu:
        return 0

    @property
    def tunnel_ports(self) -> tuple[int, ...]:
        """The UDP ports at which nodes take what is in a packet for a node's or a pod's own."""
        return ()

    def required_underlay(self, families: Iterable[Family]) -> tuple[Family, ...]:
        """The families in which nodes need an address, to carry pods' packets of these."""
        return tuple(families)

    def problem(self, families: Collection[Family]) -> str | None:
        """Why these options cannot serve a network of these families."""
        return None


class VxlanOptions(BackendOptions, frozen=True):
    """`port` is the kernel's default, not IANA's."""

    has_device = True

    vni: Vni = msgspec.field(default=1, name="VNI")
    port: Port = 8472
    mtu: Mtu = msgspec.field(default=0, name="MTU")
    gbp: bool = msgspec.field(default=False, name="GBP")
    learning: bool = False
    direct_routing: bool = False

    @property
    def uses_underlay_routes(self) -> bool:
        return self.direct_routing

    @property
    def tunnel_ports(self) -> tuple[int, ...]:
        return (self.port,)


class HostGwOptions(BackendOptions, frozen=True):
    """None."""


class BgpOptions(BackendOptions, frozen=True):
    """`BFD`: nodes notice each other's silence within a second. All else is in Calico's objects."""

    kernel_alone = False
    bfd: bool = msgspec.field(default=False, name="BFD")


class UdpOptions(BackendOptions, frozen=True):
    """The port of flannel's userspace tunnel."""

    families = (Family.IPV4,)
    has_device = True
    kernel_alone = False
    port: Port = 8285

    @property
    def tunnel_ports(self) -> tuple[int, ...]:
        return (self.port,)


class IpipOptions(BackendOptions, frozen=True):
    """Peers without a gateway in between get a plain route when DirectRouting is on."""

    families = (Family.IPV4,)
    has_device = True
    direct_routing: bool = False

    @property
    def uses_underlay_routes(self) -> bool:
        return self.direct_routing


class WireguardOptions(BackendOptions, frozen=True):
    """`mode`: a device per family, or one for both, which reaches peers by either or by one family of addresses."""

    has_device = True
    listen_port: Port = 51820
    listen_port_v6: Port = msgspec.field(default=51821, name="ListenPortV6")
    mtu: Mtu = msgspec.field(default=0, name="MTU")
    psk: Secret | None = msgspec.field(default=None, name="PSK")
    persistent_keepalive_interval: Seconds = 0
    mode: Literal["separate", "auto", "ipv4", "ipv6"] = "separate"

    @property
    def tunnel_ports(self) -> tuple[int, ...]:
        return (self.listen_port, self.listen_port_v6) if self.mode == "separate" else (self.listen_port,)

    def required_underlay(self, families: Iterable[Family]) -> tuple[Family, ...]:
        return {"separate": tuple(families), "auto": ()}.get(self.mode, self.underlay_families)

    @property
    def underlay_families(self) -> tuple[Family, ...]:
        """Of the addresses by which nodes send to each other."""
        return {"ipv4": (Family.IPV4,), "ipv6": (Family.IPV6,)}.get(self.mode, tuple(Family))

    def problem(self, families: Collection[Family]) -> str | None:
        if not any(family in families for family in self.underlay_families):
            return f"Mode: {self.mode} takes nodes' IPv{self.underlay_families[0]} addresses, and the network has none"
        if self.mode == "separate" and len(families) > 1 and self.listen_port == self.listen_port_v6:
            return f"ListenPortV6: {self.listen_port} is ListenPort, too; two devices need two ports"
        return None


class AllocOptions(BackendOptions, frozen=True):
    """None."""

    routes_peers = False


class ExtensionOptions(AllocOptions, frozen=True):
    """Commands of the operator's own; no shell reads them."""

    kernel_alone = False
    pre_startup_command: str = ""
    post_startup_command: str = ""
    subnet_add_command: str = ""
    subnet_remove_command: str = ""

    def problem(self, families: Collection[Family]) -> str | None:
        for name, command in zip(self.__struct_encode_fields__, msgspec.structs.astuple(self), strict=True):
            if (problem := _command_problem(command)) is not None:
                return f"{name}: {problem}"
        return None


VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
VARIABLES = ("SUBNET", "IPV6SUBNET", "PUBLIC_IP", "PUBLIC_IPV6", "NETWORK", "IPV6NETWORK")
"""flannel's, for the extension's commands."""


def _command_problem(command: str) -> str | None:
    try:
        words = list(shlex.shlex(command, posix=True, punctuation_chars=True))
        shlex.split(command)
    except ValueError as error:
        return f"{error} in {command!r}"
    for word in words:
        if not word.strip("();<>|&") or "$(" in word or "`" in word:
            return f"`{word}` is a shell's, and none reads it: write a script, and name that"
    unknown = [found[1] or found[2] for found in VARIABLE.finditer(command)]
    wrong = next((each for each in unknown if each not in VARIABLES), None)
    return f"there is no ${wrong}; there are {', '.join(VARIABLES)}" if wrong is not None else None


OPTIONS: dict[str, type[BackendOptions]] = {
    "vxlan": VxlanOptions,
    "host-gw": HostGwOptions,
    "bgp": BgpOptions,
    "udp": UdpOptions,
    "ipip": IpipOptions,
    "wireguard": WireguardOptions,
    "alloc": AllocOptions,
    "extension": ExtensionOptions,
}


def guarded_ports(tunnel_ports: Iterable[int]) -> tuple[int, ...]:
    """These UDP ports of tunnels; without any, vxlan's: other nodes of the cluster may have another backend yet."""
    return tuple(sorted(set(tunnel_ports))) or VxlanOptions().tunnel_ports


NOT_OFFERED = {
    **{
        name: (
            f'the cloud backend "{name}" is not supported',
            "use host-gw when all nodes share a network segment, else vxlan",
        )
        for name in ("gce", "aws-vpc", "ali-vpc", "tencent-vpc")
    },
    "ipsec": (
        '"ipsec" is not offered',
        "use wireguard: it encrypts as well, in the kernel alone, and each node makes its own key",
    ),
}
"""flannel's backends that are gone, going or not worth it, but still in people's files: what is wrong, and what to do."""
