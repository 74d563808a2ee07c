"""A TCP connection between two pods that never rests, while something changes: how often the kernel had to send again."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from tests.kernel.agent.cluster import NETNS, Pod

from percale.kernel.netns import NetnsThread

PORT = 7007
_EVERY = 0.02
_TOTAL_RETRANS = 8 + 23 * 4
"""Its offset in struct tcp_info."""


@dataclass
class Stream:
    """`failed` is why it ended early."""

    echoes: int = 0
    retransmissions: int = 0
    longest: float = 0.0
    failed: str | None = None


def _socket(pod: Pod, family: int) -> socket.socket:
    with (NETNS / pod.name).open() as entered:
        thread = NetnsThread(entered.fileno())
    try:
        return thread.run(lambda: socket.socket(family, socket.SOCK_STREAM))
    finally:
        thread.close()


def _retransmissions(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("=I", info, _TOTAL_RETRANS)[0])


@contextmanager
def streaming(client: Pod, server: Pod, address: str) -> Iterator[Stream]:
    """One echo after the other as long as this lasts; complete when it has ended."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    stream, over = Stream(), threading.Event()
    with closing(_socket(server, family)) as listener, closing(_socket(client, family)) as near:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen(1)
        near.settimeout(10)
        near.connect((address, PORT))
        far, _ = listener.accept()
        far.settimeout(10)

        def run() -> None:
            try:
                while not over.is_set():
                    start = time.monotonic()
                    near.sendall(b"x" * 64)
                    far.sendall(far.recv(64, socket.MSG_WAITALL))
                    near.recv(64, socket.MSG_WAITALL)
                    stream.longest = max(stream.longest, time.monotonic() - start)
                    stream.echoes += 1
                    time.sleep(_EVERY)
            except OSError as error:
                stream.failed = str(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield stream
        finally:
            over.set()
            thread.join()
            stream.retransmissions = _retransmissions(near) + _retransmissions(far)
            far.close()
