"""The system calls that Python 3.11 lacks: unshare, setns, mount, umount2, prctl, pivot-free mounts of namespaces.

Each raises OSError with the call's name. Python 3.12's os.unshare and os.setns would do for two of them.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
_M_ARENA_MAX = -8
_TIMEX_SIZE, _TIME_ERROR = 208, 5

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces (a new user namespace needs a process with one thread)."""
    _call("unshare", flags)


def setns(descriptor: int, flags: int = 0) -> None:
    """Move the calling thread into the namespace behind an open descriptor."""
    _call("setns", descriptor, flags)


def mount(source: str, target: str, filesystem: str | None = None, flags: int = 0, options: str | None = None) -> None:

    def encoded(text: str | None) -> bytes | None:
        return None if text is None else text.encode()

    _call("mount", encoded(source), encoded(target), encoded(filesystem), ctypes.c_ulong(flags), encoded(options))


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2), lazily by default."""
    _call("umount2", target.encode(), flags)


def die_with_parent(signal: int) -> None:
    """Ask the kernel to send this process `signal` when its parent thread ends (PR_SET_PDEATHSIG)."""
    _call("prctl", PR_SET_PDEATHSIG, signal, 0, 0, 0)


def share_memory_arena() -> None:
    """Let all threads take memory from one arena (glibc's mallopt): one of its own for each keeps megabytes of nothing."""
    if (mallopt := getattr(_libc, "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, 1)


def become_root_of_new_user_namespace() -> None:
    """A new user namespace in which the caller is root; only its own user and group are mapped."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def clock_is_synchronized() -> bool:
    """Whether something such as NTP keeps the clock right (adjtimex)."""
    state = ctypes.create_string_buffer(_TIMEX_SIZE)  # all zeros: nothing is changed
    return bool(_libc.adjtimex(state) not in (-1, _TIME_ERROR))


def bind_packet_socket(descriptor: int, protocol: int) -> None:
    """Receive packets of this protocol at all devices: Python's own `bind` takes a device's name."""
    address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(protocol), 0, 0, 0, 0, b"")
    _call("bind", descriptor, address, len(address))
