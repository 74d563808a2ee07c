"""Listening at a path, and who connects."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from percale.unix_socket import listen_at, peer_credentials


def test_a_socket_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    listen_at(path, backlog=1).close()
    with listen_at(path, backlog=1, mode=0o600) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        connection, _ = listener.accept()
        with connection:
            assert peer_credentials(connection) == (os.getpid(), os.getuid(), os.getgid())
        assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a socket's path has at most 107 bytes"):
        listen_at(tmp_path / ("x" * 120), backlog=1)
    assert not list(tmp_path.iterdir())
