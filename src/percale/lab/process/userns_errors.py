"""Why this machine forbids a rootless lab, and what to type: from an errno and the kernel's settings to one line.

Called by `bootstrap` when a namespace cannot be created.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from percale.errors import NoUserNamespaces

SettingReader = Callable[[str], str | None]

_LIMITS = {
    "user.max_user_namespaces": "15000",
    "user.max_net_namespaces": "15000",
    "user.max_mnt_namespaces": "15000",
    "user.max_pid_namespaces": "15000",
}


def read_setting(name: str) -> str | None:
    """A sysctl's value, or None where the kernel has none of that name."""
    try:
        return (Path("/proc/sys") / name.replace(".", "/")).read_text().strip()
    except OSError:
        return None


def explain(error: OSError, setting: SettingReader = read_setting) -> NoUserNamespaces:
    """The error a user sees when a namespace, or something inside one, was refused with `error`."""
    if error.errno == errno.ENOSPC:
        for name, value in _LIMITS.items():
            if setting(name) == "0":
                return _forbidden(f"{name} is 0", f"sudo sysctl -w {name}={value}")
        return _forbidden(
            "a limit of namespaces is reached (user.max_*_namespaces)",
            "end other labs (percale lab down --all), or raise it: sudo sysctl -w user.max_net_namespaces=15000",
            typed=False,
        )
    if setting("kernel.unprivileged_userns_clone") == "0" and os.geteuid() != 0:
        return _forbidden("kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1")
    if setting("kernel.apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0:
        return _forbidden(
            "kernel.apparmor_restrict_unprivileged_userns is 1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    if error.errno in (errno.EINVAL, errno.ENOSYS):
        return _forbidden(
            "this kernel has no user namespaces (CONFIG_USER_NS)",
            "use a kernel that has them; all of Debian's and Ubuntu's do",
            typed=False,
        )
    return _forbidden(
        f"refused by a container's or service's sandbox ({error})",
        "start the container with --security-opt seccomp=unconfined --security-opt systempaths=unconfined",
        typed=False,
    )


def _forbidden(what: str, advice: str, *, typed: bool = True) -> NoUserNamespaces:
    return NoUserNamespaces(
        f"this machine forbids user namespaces: {what}", hint=f"type: {advice}" if typed else advice
    )
