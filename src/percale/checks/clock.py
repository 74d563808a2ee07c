"""Whether this host's clock is that of the store's server."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ssl import CERT_NONE, create_default_context
from typing import Any

from percale.checks.check import Outcome, bad, good, unknown
from percale.checks.host import Host
from percale.kernel.syscalls import clock_is_synchronized
from percale.store.registry import server_urls

_MOST_SKEW = 5.0
"""Seconds: certificates and leases are not affected by less."""
_PATIENCE = 3.0


def clock(host: Host) -> Outcome:
    """Against the store's server, if there is one that answers; else what the kernel knows."""
    sync = "timedatectl set-ntp true"
    for url in server_urls(host.config.store):
        skew = _skew(url)
        if skew is not None and abs(skew) > _MOST_SKEW:
            return bad(f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} {url}", sync)
        if skew is not None:
            return good(f"as that of {url}, to {_MOST_SKEW:.0f} s")
    if clock_is_synchronized():
        return good("synchronized, as the kernel says")
    return unknown("nothing synchronizes it, as far as the kernel knows", sync)


def _skew(url: str) -> float | None:
    """Seconds that the server is ahead; None if it does not say. Its certificate does not matter: nothing is told to it."""
    context = create_default_context()
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    try:
        headers: Any = urllib.request.urlopen(f"{url}/version", timeout=_PATIENCE, context=context).headers  # noqa: S310
    except urllib.error.HTTPError as error:
        headers = error.headers
    except (OSError, ValueError):
        return None
    try:
        return (parsedate_to_datetime(headers["Date"]) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None
