"""Where user namespaces are forbidden, one line names the setting and what to type."""

from __future__ import annotations

import errno
import os

import pytest

from percale.lab.process.userns_errors import explain


@pytest.mark.parametrize(
    ("number", "settings", "setting", "command"),
    [
        (errno.ENOSPC, {"user.max_user_namespaces": "0"}, "user.max_user_namespaces is 0", "user.max_user_namespaces="),
        (errno.ENOSPC, {"user.max_net_namespaces": "0"}, "user.max_net_namespaces is 0", "user.max_net_namespaces="),
        (errno.ENOSPC, {}, "a limit of namespaces is reached", "percale lab down --all"),
        (
            errno.EPERM,
            {"kernel.unprivileged_userns_clone": "0"},
            "kernel.unprivileged_userns_clone is 0",
            "type: sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            errno.EACCES,
            {"kernel.apparmor_restrict_unprivileged_userns": "1"},
            "kernel.apparmor_restrict_unprivileged_userns is 1",
            "type: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (errno.EPERM, {}, "sandbox", "--security-opt seccomp=unconfined"),
        (errno.EINVAL, {}, "CONFIG_USER_NS", "use a kernel that has them"),
    ],
)
def test_names_the_setting_and_the_command(
    number: int, settings: dict[str, str], setting: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    error = str(explain(OSError(number, os.strerror(number)), settings.get))
    assert error.startswith("this machine forbids user namespaces")
    assert setting in error
    assert command in error
    assert "\n" not in error
