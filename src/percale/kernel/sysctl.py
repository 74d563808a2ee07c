"""Sysctls below /proc/sys; those of the network belong to the namespace of the thread that opens them.

Called by `rtnl/driver.py` on its namespace's thread.
"""

from __future__ import annotations

from pathlib import Path

STRICT = 1
"""Of `reverse_path_filter`: a packet is dropped unless the route to its source leads out of where it came in."""

_ROOT = Path("/proc/sys")
_AS_WITHOUT_IPV6 = {"accept_ra": "0", "disable_ipv6": "1"}
"""Sysctls that a device without IPv6 does not have, with the values that it behaves by."""


def read(name: str) -> str:
    """The value, normalized to single spaces. Raises OSError."""
    return " ".join((_ROOT / name).read_text().split())


def reverse_path_filter(device: str) -> int | None:
    """0 none, 1 strict, 2 loose: the larger one of the device's and of `all`; None: the device is not there."""
    try:
        return max(int(read(f"net/ipv4/conf/{name}/rp_filter")) for name in ("all", device))
    except OSError:
        return None


def differs(name: str, value: str) -> bool:
    """Whether it has another value; False for one that does not exist."""
    try:
        return read(name) != value
    except OSError:
        return False


def write(name: str, value: str) -> None:
    """Write the value unless it is equal. Raises OSError."""
    if name.startswith("net/ipv6/") and _AS_WITHOUT_IPV6.get(Path(name).name) == value and _lacks_ipv6(name):
        return
    if read(name) != value:
        (_ROOT / name).write_text(value)


def _lacks_ipv6(name: str) -> bool:
    """The device exists without IPv6: the kernel has none, or the MTU is less than IPv6 needs, 1280."""
    device = (_ROOT / name).parent
    return not device.exists() and (_ROOT / "net/ipv4/conf" / device.name).exists()
