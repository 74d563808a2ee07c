"""veth pairs."""

from __future__ import annotations

import errno

from percale.kernel.netlink.ifinfo import NAMESPACE_DESCRIPTOR, IndexOf, header, new_device
from percale.kernel.netlink.link_kinds.codec import LinkKindCodec
from percale.kernel.netlink.socket import nested, u32
from percale.render.link_kinds import Veth
from percale.render.objects import Link

_PEER = 1


class VethCodec(LinkKindCodec[Veth]):
    """See `LinkKindCodec`."""

    def encode(self, desired: Veth, index_of: IndexOf) -> list[bytes]:
        peer = desired.peer
        if peer is None:
            raise OSError(errno.ENODEV, "the pair is gone and can only be made again together with its other end")
        body = [header(0), *new_device(peer.name, peer.mac, peer.mtu)]
        if peer.namespace is not None:
            body.append(u32(NAMESPACE_DESCRIPTOR, peer.namespace))
        return [nested(_PEER, *body)]

    def options(self, desired: Veth) -> list[str]:
        peer = desired.peer
        if peer is None:
            return []
        words = [f"peer name {peer.name}"]
        words += [f"address {peer.mac}"] if peer.mac is not None else []
        words += [f"mtu {peer.mtu}"] if peer.mtu is not None else []
        return [*words, f"netns /proc/self/fd/{peer.namespace}"] if peer.namespace is not None else words

    def reported(self, desired: Veth, actual: Veth | None) -> Veth:
        return Veth()

    def other_end(self, desired: Veth) -> Link | None:
        peer = desired.peer
        return Link(peer.name, mac=peer.mac, mtu=peer.mtu) if peer is not None and peer.namespace is None else None
