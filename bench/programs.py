"""Where scripts/kubernetes-binaries put what it built."""

from __future__ import annotations

import os
from pathlib import Path


def built(name: str) -> Path | None:
    """The newest; None: `make kubernetes` was not run."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(os.environ.get("PERCALE_CACHE") or Path(cache, "percale"))
    return max(directory.glob(f"kubernetes-*/{name}"), default=None)
