"""An object as the stores write it, and its version: the digest of what it says.

A lease's end is kept beside the object in an annotation that no reader sees: `BOOT_ID SECONDS`, on the clock that counts from
the boot, so that a wall clock that jumps ends no lease. After a reboot a lease counts as just renewed.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from percale.model.encoding import to_json
from percale.model.meta import Object

T = TypeVar("T", bound=Object)

EXPIRES = "percale.io/lease-expires"


def versioned(obj: T) -> T:
    """The object with the version that its content gives it."""
    bare = replace(obj, metadata=replace(obj.metadata, resourceVersion=None))
    version = blake2b(to_json(bare), digest_size=8).hexdigest()
    return replace(bare, metadata=replace(bare.metadata, resourceVersion=version))


def encode(obj: Object, expires: str | None = None) -> bytes:
    """One JSON document without its version; `expires` is a lease's end (`ending`)."""
    metadata = replace(obj.metadata, resourceVersion=None)
    if expires is not None:
        metadata = replace(metadata, annotations={**metadata.annotations, EXPIRES: expires})
    return msgspec.json.format(to_json(replace(obj, metadata=metadata)), indent=2) + b"\n"


def ending(ttl: float) -> str:
    """The end of a lease of `ttl` seconds from now, and how long it is."""
    return f"{boot_id()} {boot_time() + ttl:.3f} {ttl:.3f}"


def without_expiry(obj: T) -> tuple[T, float | None]:
    """The object as readers see it, and when it ends on this boot's clock (None: never)."""
    text = obj.metadata.annotations.get(EXPIRES)
    if text is None:
        return obj, None
    annotations = {name: value for name, value in obj.metadata.annotations.items() if name != EXPIRES}
    boot, end, ttl = text.split(" ")
    moment = float(end) if boot == boot_id() else boot_time() + float(ttl)
    return replace(obj, metadata=replace(obj.metadata, annotations=annotations)), moment


def boot_time() -> float:
    """Seconds since the boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """This boot's name."""
    global _boot  # noqa: PLW0603 -- it cannot change while we run
    if _boot is None:
        _boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return _boot


_boot: str | None = None
