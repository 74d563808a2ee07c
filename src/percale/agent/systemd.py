"""Notifies systemd (sd_notify): one datagram to the socket in NOTIFY_SOCKET. Called by `main.py` and `context.py`."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

PROBLEM_STATUS = "STATUS=problem: "
"""The start of the notification of a problem: `systemctl status` and `percale lab status` show it."""


def notify(*states: str) -> None:
    """For example `notify("READY=1", "STATUS=serving pods")`. Without NOTIFY_SOCKET, or a listener behind it: no effect."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.sendto("\n".join(states).encode(), address)
