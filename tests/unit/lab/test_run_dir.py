"""Directories of labs: names, ownership, locks, files of ended labs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from percale.errors import LabError, NoSuchLab
from percale.lab import run_dir


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "a_b", "-a", "a.b", "a" * 64, "lab\n"])
def test_only_labels_name_labs(name: str) -> None:
    with pytest.raises(LabError, match="cannot name a lab"):
        run_dir.locate(name)


def test_a_lab_runs_as_long_as_its_lock_is_held(runtime: Path) -> None:
    lab = run_dir.locate("one")
    assert lab.directory == runtime / "percale/labs/one"
    assert run_dir.running(lab) is None
    lock = run_dir.acquire(lab)
    lab.pid.write_text("4711\n")
    assert run_dir.running(lab) == 4711
    assert [(each.name, pid) for each, pid in run_dir.all_running()] == [("one", 4711)]
    with pytest.raises(
        LabError, match=r"a lab named one is running already \(pid 4711\); end it with: percale lab down"
    ):
        run_dir.acquire(lab)
    os.close(lock)
    assert run_dir.running(lab) is None


def test_what_a_dead_lab_left_is_cleared_by_the_next(runtime: Path) -> None:
    lab = run_dir.locate("one")
    os.close(run_dir.acquire(lab))
    (lab.directory / "store").mkdir()
    (lab.directory / "store/pod.yaml").touch()
    lab.pid.write_text("1\n")
    os.close(run_dir.acquire(lab))
    assert [path.name for path in lab.directory.iterdir()] == ["lock"]
    assert run_dir.take_down(lab) is False
    assert not lab.directory.exists()


def test_no_such_lab_names_those_that_run() -> None:
    with pytest.raises(NoSuchLab, match="no lab named two is running; start it: percale lab up"):
        run_dir.require_running(run_dir.locate("two"))
    lock = run_dir.acquire(run_dir.locate("one"))
    with pytest.raises(NoSuchLab, match="running: one"):
        run_dir.require_running(run_dir.locate("two"))
    os.close(lock)


def test_a_directory_that_others_can_write_is_refused(runtime: Path) -> None:
    (runtime / "percale").mkdir()
    (runtime / "percale").chmod(0o777)
    with pytest.raises(LabError, match="is not a directory of yours alone"):
        run_dir.locate("one")


@pytest.mark.parametrize("way", ["link", "file", "open"])
def test_what_stands_in_a_labs_place_is_refused(runtime: Path, way: str) -> None:
    lab = run_dir.locate("one")
    (elsewhere := runtime / "elsewhere").mkdir(mode=0o700)
    match way:
        case "link":
            lab.directory.symlink_to(elsewhere)
        case "file":
            lab.directory.touch()
        case "open":
            lab.directory.mkdir()
            lab.directory.chmod(0o777)
    with pytest.raises(LabError, match="labs/one is not a directory of yours alone"):
        run_dir.locate("one")
    assert [each.name for each in run_dir.all_lab_dirs()] == (["one"] if way == "open" else [])


@pytest.mark.parametrize("way", ["link", "directory"])
def test_what_stands_in_a_locks_place_is_refused(runtime: Path, way: str) -> None:
    lab = run_dir.locate("one")
    lab.directory.mkdir(mode=0o700)
    lab.lock.symlink_to(runtime / "elsewhere") if way == "link" else lab.lock.mkdir()
    for look in (run_dir.acquire, run_dir.running, run_dir.take_down):
        with pytest.raises(LabError, match=r"labs/one/lock: cannot be opened: .*; remove it"):
            look(lab)


def test_a_runtime_directory_of_somebody_else_is_none_of_ours(runtime: Path) -> None:
    if os.geteuid() == 0:
        os.chown(runtime, 4711, -1)
    else:
        runtime.chmod(0o777)
    assert run_dir.base_directory() == Path(f"/tmp/percale-{os.geteuid()}")


def test_a_runtime_directory_without_a_root_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    assert run_dir.base_directory() == Path(f"/tmp/percale-{os.geteuid()}")


def test_a_link_in_place_of_the_directory_is_refused(runtime: Path) -> None:
    (runtime / "elsewhere").mkdir(mode=0o700)
    (runtime / "percale").symlink_to(runtime / "elsewhere")
    with pytest.raises(LabError, match="is not a directory of yours alone"):
        run_dir.locate("one")


@pytest.mark.parametrize(
    ("program", "last"),
    [
        ("raise OSError('no room')", "OSError: no room"),
        ("raise ExceptionGroup('g', [OSError('one'), OSError('two')])", "OSError: two"),
        ("raise ExceptionGroup('g', [ExceptionGroup('h', [OSError('no room')])])", "OSError: no room"),
        ("try: 1/0\nexcept ArithmeticError as error: raise OSError('no room') from error", "OSError: no room"),
        ("print('the lab ends: Killed in its controller')", "the lab ends: Killed in its controller"),
        ("print('Traceback (most recent call last):\\n  File \"x\", line 1, in f\\n    f()')", "lab lab begins"),
        ("", "lab lab begins"),
    ],
)
def test_the_end_of_a_log_tells_the_error(tmp_path: Path, program: str, last: str) -> None:
    script, log = tmp_path / "p.py", tmp_path / "log"
    script.write_text(f"def f():\n    {program.replace(chr(10), chr(10) + '    ') or 'pass'}\nf()\n")
    log.write_text("lab lab begins\n")
    with log.open("a") as output:
        subprocess.run([sys.executable, script], stdout=output, stderr=output, check=False)
    assert run_dir.log_tail(log) == last


def test_commands_that_are_printed_name_the_lab_where_another_is_meant_without(monkeypatch: pytest.MonkeyPatch) -> None:
    one, lab = run_dir.locate("one"), run_dir.locate("lab")
    assert (one.command("get pods -A"), lab.command("up")) == ("percale lab get --lab one pods -A", "percale lab up")
    monkeypatch.setenv("PERCALE_LAB", "one")
    assert (one.command("up"), lab.command("up")) == ("percale lab up", "percale lab up --lab lab")
