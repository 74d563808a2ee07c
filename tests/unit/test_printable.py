"""Text of others reaches terminals and encoders as printable text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from percale.errors import BadManifest
from percale.printable import printable, printable_path

PERCALE = Path(sys.executable).parent / "percale"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text\twith a tab\nand “quotes” → 名", "plain text\twith a tab\nand “quotes” → 名"),
        ("\x1b[31mred\x07\r", "\\u001b[31mred\\u0007\\u000d"),
        ("\x9b31m\x7f", "\\u009b31m\\u007f"),
        ("evil\u202etxt.exe", "evil\\u202etxt.exe"),
        ("half\ud800", "half\\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_path_is_on_one_line_and_shows_its_bytes() -> None:
    assert printable_path(os.fsdecode(b"d/a\xff\n\xc3\xbc\x1b.yaml")) == "d/a\\xff\\u000aü\\u001b.yaml"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_another_encoding_gets_escapes(tmp_path: Path, encoding: str) -> None:
    """As with LANG=en_US.ISO-8859-1."""
    (tmp_path / "a.yaml").write_text(
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a}]}}"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    words = [str(PERCALE), "why", "a", "1.1.1.1", "80", "-f", "a.yaml"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"allowed: default/a \\u2192 1.1.1.1, 80/TCP")


def test_an_error_can_be_encoded_and_printed() -> None:
    error = BadManifest("not \x1b[2J", where=os.fsdecode(b"a\xff.yaml:1"), hint="say \x07")
    assert str(error) == "a\\xff.yaml:1: not \\u001b[2J; say \\u0007"


def test_commands_print_no_control_characters(tmp_path: Path) -> None:
    """On stdout, on stderr, and in JSON, where an escape remains one."""
    odd = tmp_path / os.fsdecode(b"\x1b]0;title\x07\xff.yaml")
    odd.write_text(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  labels: {a: '\N{RIGHT-TO-LEFT OVERRIDE}'}\n  odd: 1\n"
    )
    for arguments, code in (
        (["policy", "check", str(tmp_path)], 1),
        (["service", "list", "-f", str(tmp_path)], 2),
        (["policy", "check", "-o", "json", str(tmp_path)], 1),
    ):
        done = subprocess.run([PERCALE, *arguments], capture_output=True, check=False, timeout=60)
        output = (done.stdout + done.stderr).decode()
        assert done.returncode == code
        assert "\\xff.yaml" in output
        assert output.replace("\n", "").isprintable()
        if "json" in arguments:
            assert json.loads(output)["findings"][0]["file"].endswith("title\\u0007\\xff.yaml")
