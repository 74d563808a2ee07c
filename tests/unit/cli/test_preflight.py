"""`percale preflight`: what it is given, as far as it gets before it looks at the host."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import run


def test_a_network_file_from_here(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "net-conf.json").write_text('{"Network": "x"}')
    code, lines = run(capsys, "preflight", "--network-file", "net-conf.json")
    assert (code, lines) == (
        2,
        [f'percale: {here}/net-conf.json: Network: "x" is not a network; write "10.244.0.0/16"'],
    )
