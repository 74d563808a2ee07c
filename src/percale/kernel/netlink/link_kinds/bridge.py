"""Bridges."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from percale.kernel.netlink.ifinfo import IndexOf, NameOf
from percale.kernel.netlink.link_kinds.codec import LinkKindCodec
from percale.kernel.netlink.socket import attribute, number, u8
from percale.render.link_kinds import Bridge

_SNOOPING, _OPTIONS = 23, 46
_NO_RESERVED_LEARNING = 0x1
"""Of a bridge's options, two words: values, and their mask."""
_NEW = Bridge(snooping=True, reserved=True)


class BridgeCodec(LinkKindCodec[Bridge]):
    """See `LinkKindCodec`."""

    def decode(self, data: Mapping[int, bytes], name_of: NameOf) -> Bridge:
        options = number(data.get(_OPTIONS, b"")[:4])
        return Bridge(bool(data.get(_SNOOPING, b"\0")[0]), not options & _NO_RESERVED_LEARNING)

    def encode(self, desired: Bridge, index_of: IndexOf) -> list[bytes]:
        return self.change(desired, Bridge())

    def change(self, desired: Bridge, actual: Bridge) -> list[bytes]:
        data = []
        if desired.snooping not in (None, actual.snooping):
            data.append(u8(_SNOOPING, desired.snooping is True))
        if desired.reserved not in (None, actual.reserved):
            value = 0 if desired.reserved else _NO_RESERVED_LEARNING
            data.append(attribute(_OPTIONS, struct.pack("=II", value, _NO_RESERVED_LEARNING)))
        return data

    def options(self, desired: Bridge) -> list[str]:
        words = [f"mcast_snooping {desired.snooping:d}"] if desired.snooping is not None else []
        return [*words, f"no_linklocal_learn {not desired.reserved:d}"] if desired.reserved is not None else words

    def reported(self, desired: Bridge, actual: Bridge | None) -> Bridge:
        before = actual or _NEW
        return Bridge(
            before.snooping if desired.snooping is None else desired.snooping,
            before.reserved if desired.reserved is None else desired.reserved,
        )
