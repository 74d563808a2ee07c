"""subnet.env, for programs that read flannel's."""

from __future__ import annotations

from pathlib import Path

from tests.silent import silent_problems

from percale.agent.network.subnet_file import write_subnet_file
from percale.model.subnet_env import FILE

TEXT = "FLANNEL_NETWORK=10.244.0.0/16\n"


def test_an_equal_file_is_left_alone(tmp_path: Path) -> None:
    file, problems = tmp_path / "flannel/subnet.env", silent_problems()
    write_subnet_file(file, TEXT, problems)
    before = file.stat()
    assert (file.read_text(), before.st_mode & 0o777) == (TEXT, 0o644)
    write_subnet_file(file, TEXT, problems)
    assert file.stat().st_ino == before.st_ino
    write_subnet_file(file, f"{TEXT}FLANNEL_MTU=1450\n", problems)
    assert file.read_text() == f"{TEXT}FLANNEL_MTU=1450\n"


def test_a_file_that_cannot_be_written_is_a_problem_until_it_can(tmp_path: Path) -> None:
    directory, problems = tmp_path / "flannel", silent_problems()
    directory.write_text("in the way")
    write_subnet_file(directory / "subnet.env", TEXT, problems)
    assert f"{directory}/subnet.env: cannot be written: " in problems.current[FILE].error
    assert "set subnetFile to another path, or to null" in problems.current[FILE].error
    directory.unlink()
    write_subnet_file(directory / "subnet.env", TEXT, problems)
    assert not problems.current
