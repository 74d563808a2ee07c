"""Runs `nft -f`. Called by `table.py`, for a static text in a scratch namespace, and for the fast path's table."""

from __future__ import annotations

import errno
import re
import subprocess

_NFT_PATIENCE = 60
"""Seconds."""


def run_nft(commands: str) -> None:
    """One `nft -f` in the caller's namespace. Raises OSError with nft's message."""
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=commands, capture_output=True, text=True, timeout=_NFT_PATIENCE, check=False
        )
    except FileNotFoundError as error:
        raise OSError(errno.ENOENT, "there is no nft program: install nftables") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, f"nft did not end within {_NFT_PATIENCE} s") from error
    if done.returncode != 0:
        words = re.sub(r"\s*\n\s*", " ", done.stderr).strip()
        raise OSError(errno.EPERM if "Operation not permitted" in done.stderr else errno.EINVAL, words)
