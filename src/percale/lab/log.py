"""The lab's own log: the standard error of its controller."""

from __future__ import annotations

import sys
from contextlib import suppress

from percale.lab.timestamps import now


def log(text: str) -> None:
    """Write a line; errors such as a full disk are ignored."""
    with suppress(OSError):
        print(f"{now()} {text}", file=sys.stderr, flush=True)
