"""vxlan devices."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address

from msgspec.structs import replace

from percale.kernel.netlink.ifinfo import IndexOf, NameOf
from percale.kernel.netlink.link_kinds.codec import LinkKindCodec
from percale.kernel.netlink.socket import attribute, number, u8, u16_network, u32
from percale.model.addresses import IPAddress
from percale.render.link_kinds import Vxlan

_ID, _LINK, _LOCAL, _LEARNING, _PORT, _LOCAL6, _GBP = 1, 3, 4, 7, 15, 17, 23


class VxlanCodec(LinkKindCodec[Vxlan]):
    """See `LinkKindCodec`."""

    has_fdb = True

    def decode(self, data: Mapping[int, bytes], name_of: NameOf) -> Vxlan:
        local: IPAddress = IPv4Address(data.get(_LOCAL, bytes(4)))
        if _LOCAL6 in data:
            local = IPv6Address(data[_LOCAL6])
        return Vxlan(
            vni=number(data.get(_ID, b"")),
            local=local,
            dev=name_of(number(data.get(_LINK, b""))) or "",
            port=int.from_bytes(data.get(_PORT, b""), "big"),
            learning=bool(number(data.get(_LEARNING, b"\0"))),
            gbp=_GBP in data,
        )

    def encode(self, desired: Vxlan, index_of: IndexOf) -> list[bytes]:
        return [
            u32(_ID, desired.vni),
            u32(_LINK, index_of(desired.dev)),
            attribute(_LOCAL if desired.local.version == 4 else _LOCAL6, desired.local.packed),
            u8(_LEARNING, desired.learning),
            u16_network(_PORT, desired.port),
            *([attribute(_GBP, b"")] if desired.gbp else ()),
        ]

    def change(self, desired: Vxlan, actual: Vxlan) -> list[bytes] | None:
        if desired == actual:
            return []
        return [u8(_LEARNING, desired.learning)] if replace(desired, learning=actual.learning) == actual else None

    def options(self, desired: Vxlan) -> list[str]:
        learning = "learning" if desired.learning else "nolearning"
        words = [f"id {desired.vni} local {desired.local} dev {desired.dev} dstport {desired.port} {learning}"]
        return [*words, "gbp"] if desired.gbp else words
