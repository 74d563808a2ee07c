"""Expiry of leased objects, an annotation in their files that readers of the store do not see.

Time is CLOCK_BOOTTIME (it includes suspend), so setting the clock expires no lease; a lease of another boot counts as just
renewed when it is first read. Called by `directory.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from percale.boot_id import boot_id
from percale.errors import BadManifest
from percale.model.meta import Object

T = TypeVar("T", bound=Object)

ANNOTATION = "percale.io/lease-expires"
"""`BOOT-ID SECONDS-SINCE-BOOT TTL`."""


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class BootClock(Struct, frozen=True):
    """This boot's id, and the seconds since boot."""

    boot: Callable[[], str] = boot_id
    now: Callable[[], float] = _since_boot


def with_expiry(obj: T, ttl: float, clock: BootClock) -> T:
    """The object as written to its file, to expire `ttl` seconds from now."""
    stamp = f"{clock.boot()} {clock.now() + ttl:.3f} {ttl:g}"
    return _annotated(obj, {**obj.metadata.annotations, ANNOTATION: stamp})


def without_expiry(obj: T, clock: BootClock, where: str) -> tuple[T, float | None]:
    """The object as readers see it, and when it expires (None: never). Raises BadManifest."""
    stamp = obj.metadata.annotations.get(ANNOTATION)
    if stamp is None:
        return obj, None
    try:
        ends = _end(stamp, clock)
    except ValueError as error:
        raise BadManifest(
            f'metadata.annotations["{ANNOTATION}"]: not a lease', where=where, hint="remove it"
        ) from error
    return _annotated(obj, {key: text for key, text in obj.metadata.annotations.items() if key != ANNOTATION}), ends


def _end(stamp: str, clock: BootClock) -> float:
    """Raises ValueError."""
    boot, deadline, ttl = stamp.split()
    ends = float(deadline) if boot == clock.boot() else clock.now() + float(ttl)
    if not isfinite(ends):
        raise ValueError(stamp)
    return ends


def _annotated(obj: T, annotations: dict[str, str]) -> T:
    return replace(obj, metadata=replace(obj.metadata, annotations=annotations))
