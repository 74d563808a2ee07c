"""What this layer knows about a kind of device; a subclass per kind overrides what its attributes require."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from percale.kernel.netlink.ifinfo import IndexOf, NameOf
from percale.render.link_kinds import LinkKind
from percale.render.objects import Link

K = TypeVar("K", bound=LinkKind)


class LinkKindCodec(Generic[K]):
    """A kind in netlink (IFLA_INFO_DATA), in `ip` commands, and in the fake kernel. Pure."""

    has_fdb = False
    """Permanent forwarding entries on such a device are objects of ours."""

    def __init__(self, kind: type[K]) -> None:
        self.kind = kind

    def decode(self, data: Mapping[int, bytes], name_of: NameOf) -> K:
        """A device's attributes as a value."""
        return self.kind()

    def encode(self, desired: K, index_of: IndexOf) -> list[bytes]:
        """The attributes of a new device. Raises OSError when it cannot be created."""
        return []

    def change(self, desired: K, actual: K) -> list[bytes] | None:
        """The attributes that differ and can be set in place; None when it takes a new device."""
        return []

    def options(self, desired: K) -> list[str]:
        """The words of `ip link add … type KIND` that follow."""
        return []

    def reported(self, desired: K, actual: K | None) -> K:
        """What the kernel reports after `desired` was set on `actual`, or on a new device."""
        return desired

    def other_end(self, desired: K) -> Link | None:
        """The device that is created along with it in the same namespace."""
        return None
