"""What a command ends with when nobody reads what it prints, as behind `| head`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests import answers

COMMANDS = (
    "--help",
    "--version",
    "lab delete --help",
    "completion bash",
    "policy check world.yaml",
    "matrix -f world.yaml -o json",
    "service list -f world.yaml",
    "why client web http -f world.yaml",
)
MISTAKES = ("why", "nosuch", "matrix -f nosuch.yaml", "matrix -f nosuch.yaml -o json")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "world.yaml").write_text(answers.WORLD)
    return tmp_path


def unread() -> int:
    """A pipe's end for writing, without another end."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_nobody_reads_is_141_without_a_word(directory: Path, command: str) -> None:
    words = [str(Path(sys.executable).parent / "percale"), *command.split()]
    writer = unread()
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=directory, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("command", MISTAKES)
def test_so_are_complaints_that_nobody_reads(directory: Path, command: str) -> None:
    writer = unread()
    words = [str(Path(sys.executable).parent / "percale"), *command.split()]
    done = subprocess.run(words, stdout=writer, stderr=writer, cwd=directory, check=False)
    os.close(writer)
    assert done.returncode == 141


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("command", "code"), [("why client web http -f world.yaml", 0), ("matrix -f nosuch.yaml", 2)])
def test_streams_that_are_closed_change_no_code(directory: Path, command: str, code: int, closed: str) -> None:
    line = f"{Path(sys.executable).parent / 'percale'} {command} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=directory, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == (code == 0 and " >&-" not in f" {closed}")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("more", [[], ["-o", "json"]])
def test_a_full_disk_is_one_line(directory: Path, more: list[str], unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "percale"), "service", "list", "-f", "world.yaml", *more],
            cwd=directory,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "percale: the output cannot be written: no space left\n")
