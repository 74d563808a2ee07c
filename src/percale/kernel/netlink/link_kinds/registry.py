"""The codec of each kind of device, by the kernel's name for it."""

from __future__ import annotations

from typing import Any

from percale.kernel.netlink.link_kinds.bridge import BridgeCodec
from percale.kernel.netlink.link_kinds.codec import LinkKindCodec
from percale.kernel.netlink.link_kinds.ipip import IpipCodec
from percale.kernel.netlink.link_kinds.veth import VethCodec
from percale.kernel.netlink.link_kinds.vxlan import VxlanCodec
from percale.render.link_kinds import Bridge, Ifb, Ipip, LinkKind, Tun, Veth, Vxlan, Wireguard

CODECS: dict[str, LinkKindCodec[Any]] = {
    "vxlan": VxlanCodec(Vxlan),
    "ipip": IpipCodec(Ipip),
    "wireguard": LinkKindCodec(Wireguard),
    "bridge": BridgeCodec(Bridge),
    "veth": VethCodec(Veth),
    "ifb": LinkKindCodec(Ifb),
    "tun": LinkKindCodec(Tun),
}


def codec_of(kind: LinkKind) -> LinkKindCodec[Any]:
    """Its codec, which every kind of ours has."""
    return CODECS[kind.name]
