"""Sysctls below /proc/sys; those of the network belong to the namespace of the thread that opens them.

Called by `rtnl/driver.py` on its namespace's thread.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/proc/sys")
_AS_WITHOUT_IPV6 = {"accept_ra": "0", "disable_ipv6": "1"}
"""Sysctls that a device without IPv6 does not have, with the values that it behaves by."""


def read(name: str) -> str:
    """The value, normalized to single spaces. Raises OSError."""
    return " ".join((_ROOT / name).read_text().split())


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
