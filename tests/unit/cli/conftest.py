"""Commands in the tests' own process, and the directory where they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from percale.cli.main import main

CASE = """\
name: c
manifests: [p.yaml]
pods: [{namespace: default, name: a, ips: [10.0.0.1]}]
probes: [{from: default/a, to: 1.1.1.1, protocol: TCP, port: 80, allowed: true}]
"""
"""A policy test of `p.yaml` that passes."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def percale(*arguments: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """The exit code, and the lines of both outputs."""
    code = percale(*arguments)
    output = capsys.readouterr()
    return code, (output.out + output.err).splitlines()
