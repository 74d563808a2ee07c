"""Every test run happens in namespaces of its own, so that no test can touch or leave anything on this machine.

The test process moves into a new network and mount namespace before the first test (and, when it is not root, into a
new user namespace first), with an empty /run/netns of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import settings

from percale.kernel import syscalls

# How many examples a property test takes: in `make test`, `make check` and `make fuzz`.
settings.register_profile("usual", max_examples=100, deadline=None)
settings.register_profile("quick", max_examples=15, deadline=None)
settings.register_profile("fuzz", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("usual")


def pytest_configure() -> None:
    if os.geteuid() != 0:
        syscalls.become_root_of_new_user_namespace()
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", "/run", "tmpfs")
    Path("/run/netns").mkdir()
