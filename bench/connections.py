"""A server, and a client that opens connections in a loop. Run inside namespaces by the rows of policies and Services.

python -m bench.connections serve PORT              accepts connections; answers each HTTP request with a few bytes
python -m bench.connections connect ADDRESS PORT N  connects and closes N times; prints median µs, connections per second
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import struct
import sys
import time

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_LAST_ANSWER = _ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
_NO_LINGER = struct.pack("ii", 1, 0)
"""Closed by RST, without TIME_WAIT, so that ports do not run out."""


def serve(port: int) -> None:
    """Serve until killed; single-threaded."""
    listener = socket.create_server(("0.0.0.0", port), backlog=4096)
    listener.setblocking(False)
    events = selectors.EpollSelector()
    events.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in events.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                events.register(connection, selectors.EVENT_READ)
                continue
            assert isinstance(key.fileobj, socket.socket)
            if not _answer(key.fileobj):
                events.unregister(key.fileobj)
                key.fileobj.close()


def _answer(connection: socket.socket) -> bool:
    """Answer a request; whether the connection stays open."""
    try:
        request = connection.recv(4096)
        keep_alive = bool(request) and b"Connection: close" not in request
        if request:
            connection.send(_ANSWER if keep_alive else _LAST_ANSWER)
    except OSError:
        return False
    return keep_alive


def connect(address: str, port: int, count: int) -> tuple[float, float]:
    """The median time to connect in microseconds, and connections per second."""
    samples = []
    start = time.perf_counter()
    for _ in range(count):
        connection = socket.socket()
        before = time.perf_counter()
        connection.connect((address, port))
        samples.append(time.perf_counter() - before)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        connection.close()
    return statistics.median(samples) * 1e6, count / (time.perf_counter() - start)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    print(json.dumps(connect(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
