"""Programs of classic BPF at sockets: which packets or messages the kernel hands over. An instruction is code, jt, jf, k."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")


def attach_filter(endpoint: socket.socket, instructions: Sequence[tuple[int, int, int, int]]) -> None:
    """Raises OSError."""
    program = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*each) for each in instructions))
    described = struct.pack("@HP", len(instructions), ctypes.addressof(program))
    endpoint.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
