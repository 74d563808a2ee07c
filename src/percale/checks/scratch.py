"""A network namespace to try things in, thrown away afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self, TypeVar

from percale.kernel.errors import apply_or_raise
from percale.kernel.netns import NetnsThread, anonymous_namespace
from percale.kernel.protocol import Upsert
from percale.kernel.rtnl.driver import opened
from percale.render.objects import KernelObject

T = TypeVar("T")


class Scratch:
    """Within its block. Raises OSError when none can be made."""

    def __init__(self) -> None:
        self.descriptor = anonymous_namespace()
        self._thread = NetnsThread(self.descriptor, "scratch")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.close()
        os.close(self.descriptor)

    def run(self, action: Callable[[], T]) -> T:
        """In there."""
        return self._thread.run(action)

    def apply(self, *objects: KernelObject) -> None:
        """Make them. Raises KernelError."""
        with opened(self.descriptor) as driver:
            apply_or_raise(driver, list(map(Upsert, objects)))
