"""ipip devices, one to many: the remote address is each route's gateway."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from percale.kernel.netlink.ifinfo import IndexOf, NameOf
from percale.kernel.netlink.link_kinds.codec import LinkKindCodec
from percale.kernel.netlink.socket import attribute, u8
from percale.render.link_kinds import Ipip

_LOCAL, _PROTOCOL, _PATH_MTU = 2, 9, 10
_INNER_IPV4 = 4


class IpipCodec(LinkKindCodec[Ipip]):
    """See `LinkKindCodec`."""

    def decode(self, data: Mapping[int, bytes], name_of: NameOf) -> Ipip:
        return Ipip(IPv4Address(data.get(_LOCAL, bytes(4))))

    def encode(self, desired: Ipip, index_of: IndexOf) -> list[bytes]:
        # Path MTU discovery: without it a path that has once been smaller stays so (calico#7146).
        return [attribute(_LOCAL, desired.local.packed), u8(_PROTOCOL, _INNER_IPV4), u8(_PATH_MTU, 1)]

    def change(self, desired: Ipip, actual: Ipip) -> list[bytes] | None:
        return [] if desired == actual else None

    def options(self, desired: Ipip) -> list[str]:
        return [f"local {desired.local} mode ipip pmtudisc"]
