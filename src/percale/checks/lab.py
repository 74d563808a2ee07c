"""What a lab needs beyond a node (`--lab`): namespaces for a user who is not root."""

from __future__ import annotations

import os

from percale.checks.check import Outcome, bad, good
from percale.checks.host import Host
from percale.kernel import syscalls
from percale.lab.process.userns_errors import explain


def user_namespaces(_host: Host) -> Outcome:
    """Tried in a child, as a lab's start does."""
    child = os.fork()
    if child == 0:
        os._exit(_tried())
    _, status = os.waitpid(child, 0)
    number = os.waitstatus_to_exitcode(status)
    if number == 0:
        return good("a user namespace with all others can be made")
    error = explain(OSError(number, os.strerror(number)))
    return bad(error.what, (error.hint or "").removeprefix("type: "))


def _tried() -> int:
    """An errno; nothing may be raised in here."""
    try:
        syscalls.become_root_of_new_user_namespace()
        syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
    except OSError as error:
        return error.errno or 1
    except BaseException:
        return 1
    return 0
