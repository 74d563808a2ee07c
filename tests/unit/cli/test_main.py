"""The entry point: what is imported when, and how errors look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from tests.unit.cli.conftest import percale

from percale.cli import main as entry
from percale.cli.lazy import LazyGroup
from percale.errors import BadConfig, BadManifest, BadManifests


def exit_code(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def fail() -> None:
        raise error

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: click.Command("fail", callback=fail))
    return percale("fail")


def test_help_and_version_import_no_command() -> None:
    code = (
        "import sys\nfrom percale.cli import main\n"
        "try: main.main(sys.argv[1:])\n"
        "except SystemExit as e: print(e.code, sorted(m for m in sys.modules if m.startswith(('percale', 'asyncio'))))"
    )
    for argument in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, check=True)
        modules = "percale percale.cli percale.cli.lab_option percale.cli.lazy percale.cli.main percale.errors percale.printable"
        assert done.stdout.splitlines()[-1] == f"0 {modules.split()}"


@pytest.mark.parametrize("name", ["why", "matrix", "service"])
def test_a_command_that_is_not_of_the_lab_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert percale("lab", name, "a", "b", "80") == 2
    assert f"Error: {name} is no command of lab; write: percale {name} …" in capsys.readouterr().err
    assert percale("lab", "aply") == 2
    assert "Did you mean 'apply'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "--lab other why a b 80",
        "why --lab other a b 80",
        "why a b 80 --lab other",
        "matrix --lab other",
        "service list --lab other",
        "--lab other service list",
        "--lab other lab status",
        "lab --lab other status",
        "lab status --lab other",
        "lab down --lab other",
        "lab probe a --lab other b 80",
        "lab exec --lab other a -- sh",
        "lab exec a --lab other -- sh --lab third",
        "lab exec a -n x --lab other -- sh",
        "lab node node1 --lab other -- sh",
        "lab tcpdump a --lab other -i eth0 -- -c 1",
    ],
)
def test_the_lab_is_named_anywhere(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(line: str) -> str:
        assert percale(*line.split()) == 2
        return capsys.readouterr().err

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    monkeypatch.setenv("PERCALE_LAB", "wrong")
    assert told(words) == "percale: no lab named other is running; start it: percale lab up --lab other\n"
    monkeypatch.setenv("PERCALE_LAB", "other")
    assert "no lab named other" in told(words.replace("--lab other", "", 1))


def test_every_command_is_there() -> None:
    for name in entry.COMMANDS:
        assert isinstance(entry.percale.get_command(click.Context(entry.percale), name), click.Command)


def test_an_error_is_one_line_and_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(monkeypatch, BadConfig("expected\ntrue", where="x.yaml:3", hint="do this")) == 2
    assert capsys.readouterr().err == "percale: x.yaml:3: expected true; do this\n"


def test_all_that_is_wrong_with_a_file_is_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        exit_code(
            monkeypatch, BadManifests((BadManifest("x", where="a.yaml:1"), BadManifest("y  z", where="a.yaml:2")))
        )
        == 2
    )
    assert capsys.readouterr().err == "percale: a.yaml:1: x\npercale: a.yaml:2: y z\n"


def test_an_unexpected_error_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, KeyError("x")) == 2
    line = capsys.readouterr().err
    assert line == "percale: internal error: KeyError: 'x'; please report it, with what PERCALE_DEBUG=1 shows\n"
    monkeypatch.setenv("PERCALE_DEBUG", "1")
    assert exit_code(monkeypatch, KeyError("x")) == 2
    assert "Traceback" in capsys.readouterr().err


def test_wrong_usage_is_2_and_an_interrupt_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert percale("no-such-command") == 2
    assert "No such command" in capsys.readouterr().err
    for words, meant in ((("labs",), "lab"), (("policy", "chek"), "check"), (("lab", "upp"), "up")):
        assert percale(*words) == 2
        assert f"Did you mean '{meant}'?" in capsys.readouterr().err
    assert percale("agent", "--no-such-flag") == 2
    capsys.readouterr()
    for command in ("policy check", "policy test", "service check"):
        assert percale(*command.split(), "-f", "shop.yaml") == 2
        assert "Error: the files are arguments: leave -f away" in capsys.readouterr().err
    assert exit_code(monkeypatch, KeyboardInterrupt()) == 130
    capsys.readouterr()
