"""A file is replaced as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from percale.atomic_file import replace_file


def test_content_and_mode_are_replaced_and_no_draft_is_left(tmp_path: Path) -> None:
    path = tmp_path / "plugin"
    path.write_text("old")
    replace_file(path, b"new", mode=0o755, durable=True)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o755
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
