"""The kernel's errors as `KernelError`: what, where (the equivalent command), and what to do next.

`state` and whoever applies changes by hand call.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from percale.errors import KernelError
from percale.kernel.commands import format_object, to_commands
from percale.kernel.protocol import Change, Driver
from percale.render.link_kinds import Veth
from percale.render.objects import KernelObject, Link, Sysctl

_HINTS = {
    errno.EPERM: "run as root, or in a user and network namespace of your own",
    errno.EOPNOTSUPP: "this kernel cannot do that: load the module or choose another backend or wiring",
    errno.ENETUNREACH: "the gateway must be reachable on the device: check the node's addresses",
    errno.ENODEV: "it is tried again when the device appears",
    errno.EBUSY: "something else holds it",
}


def kernel_error(change: Change, error: OSError) -> KernelError:
    """The error of a failed change."""
    lines = to_commands(change)
    where = lines[0].split("\n", 1)[0] if lines else format_object(change.object)
    return KernelError.from_os(error, where=where, hint=_hint(change.object, error.errno))


def _hint(obj: KernelObject, number: int | None) -> str | None:
    if isinstance(obj, Sysctl) and number == errno.ENOENT and obj.name.startswith("net/bridge/"):
        return "policies do not reach pods on bridges until the module is loaded: modprobe br_netfilter"
    if isinstance(obj, Link) and isinstance(obj.kind, Veth) and obj.kind.peer is not None and number == errno.EEXIST:
        return f"the other namespace has a device {obj.kind.peer.name} of another owner"
    return _HINTS.get(number or 0)


def conflict_error(desired: KernelObject, first: str, other: str) -> KernelError:
    """The error of two sources that declare one object differently."""
    return KernelError(
        f"{other} declares it differently from {first}, which takes precedence",
        errno=errno.EEXIST,
        where=format_object(desired),
        hint=f"take it from one of {first} and {other}",
    )


def apply_or_raise(driver: Driver, changes: Sequence[Change]) -> None:
    """Apply all changes. Raises the KernelError of the first that failed (later ones were tried as well)."""
    for change, error in zip(changes, driver.apply(changes), strict=True):
        if error is not None:
            raise kernel_error(change, error) from error
