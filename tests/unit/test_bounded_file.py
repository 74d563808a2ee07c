"""Files that somebody else has put there."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from percale.bounded_file import MAX_SIZE, read_file, read_regular_file


def test_a_regular_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to(file)
    assert read_regular_file(file) == read_regular_file(tmp_path / "link") == read_file(file) == b"x" * 100_000


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, MAX_SIZE + 1)


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (os.mkfifo, errno.EINVAL),
        (lambda path: path.symlink_to("/dev/zero"), errno.EINVAL),
        (lambda path: path.symlink_to("/dev/tty"), errno.EINVAL),
        (lambda path: path.symlink_to(path), errno.ELOOP),
        (lambda path: path.mkdir(), errno.EISDIR),
        (_huge, errno.EFBIG),
    ],
)
def test_what_is_none_is_not_opened(tmp_path: Path, make: object, number: int) -> None:
    path = tmp_path / "odd"
    make(path)  # type: ignore[operator]
    with pytest.raises(OSError) as caught:  # its number is what counts
        read_regular_file(path)
    assert caught.value.errno == number


def test_what_a_user_names_may_be_a_pipe_and_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"text",))
    writer.start()
    assert read_file(tmp_path / "pipe") == b"text"
    writer.join()
    with pytest.raises(OSError, match="128 MiB are read at most"):
        read_file("/dev/zero")
