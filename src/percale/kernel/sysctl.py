"""Kernel settings below /proc/sys; those of the network follow the namespace of the thread that opens them.

`driver` calls these on its namespace's thread.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/proc/sys")
_AS_WITHOUT_IPV6 = {"accept_ra": "0", "disable_ipv6": "1"}
"""Settings that a device without IPv6 does not have, and that say what it does anyway."""


def read(name: str) -> str:
    """The setting's value, parted by single spaces. Raises OSError."""
    return " ".join((_ROOT / name).read_text().split())


def differs(name: str, value: str) -> bool:
    """It has another value; one that is not there has none."""
    try:
        return read(name) != value
    except OSError:
        return False


def write(name: str, value: str) -> None:
    """Make it so; an equal value is not written again. Raises OSError."""
    if name.startswith("net/ipv6/") and _AS_WITHOUT_IPV6.get(Path(name).name) == value and _lacks_ipv6(name):
        return
    if read(name) != value:
        (_ROOT / name).write_text(value)


def _lacks_ipv6(name: str) -> bool:
    """The device is there without IPv6: the kernel has none, or the MTU is less than IPv6 needs, 1280."""
    device = (_ROOT / name).parent
    return not device.exists() and (_ROOT / "net/ipv4/conf" / device.name).exists()
