"""`python -m bench [NAME…]`: runs each benchmark in a network namespace of its own and prints one table."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from bench.rows import HEADING
from percale.kernel import syscalls

NAMES = ("decode", "peers", "memory", "cni", "lab_up", "datapath", "elements", "matrix", "policies", "services")


def main() -> int:
    """Exit code 1 when a goal was missed."""
    names = sys.argv[1:] or NAMES
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(f"bench: no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        syscalls.become_root_of_new_user_namespace()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", "/run", "tmpfs")
    Path("/run/netns").mkdir()
    print(HEADING, flush=True)
    missed = 0
    for name in names:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        for row in importlib.import_module(f"bench.{name}").measure():
            print(row.text(), flush=True)
            missed += not row.met
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
