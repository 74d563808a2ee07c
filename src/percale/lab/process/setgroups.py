"""Makes setgroups(2) succeed without doing anything, for programs started by `nsenter`.

In a user namespace with one mapped user the kernel refuses setgroups (it could drop a group that denies access), and
programs that drop privileges, such as tcpdump, fail on that. Only one group exists here, so the call has nothing to do:
a seccomp filter returns success in the kernel's place; it persists across exec.
"""

from __future__ import annotations

import ctypes
import os
import platform

_CALLS = {"x86_64": (0xC000003E, 116), "aarch64": (0xC00000B7, 159), "riscv64": (0xC00000F3, 159)}
"""Each machine's audit architecture and its number of setgroups."""
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
"""Where the filter finds them."""
_SUCCEED, _ALLOW = 0x00050000, 0x7FFF0000


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def pretend_setgroups() -> None:
    """For this process and all that it starts. Does nothing on a machine whose calls are not known. Raises OSError."""
    if platform.machine() not in _CALLS:
        return
    architecture, setgroups = _CALLS[platform.machine()]
    lines = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 0, 3, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 0, 1, setgroups),
        (_RETURN, 0, 0, _SUCCEED),
        (_RETURN, 0, 0, _ALLOW),
    )
    instructions = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    program = _Program(len(lines), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")
