"""What `make` says of itself, and what `make bench` says before it begins."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run(*command: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path if path is not None else os.environ["PATH"]}
    environment.pop("MAKEFLAGS", None)
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip


def test_make_lists_its_targets() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    listed = run("make", "--no-print-directory").stdout
    assert listed == run("make", "--no-print-directory", "help").stdout
    names = {line.split()[1] for line in listed.splitlines()}
    assert names == set(phony[1].split()) - {"setup-tests", "setup-testbed"}
    assert all(re.fullmatch(r"  make [a-z-]+ +\S.*", line) for line in listed.splitlines())


def test_a_benchmark_without_its_program(tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "bench", "services", path=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bench: iperf3, wrk missing; type: sudo scripts/system-packages tests\n"
    done = run(sys.executable, "-m", "bench", "service")
    assert done.returncode == 2
    assert done.stderr.startswith("bench: no such benchmark: service; there are decode, ")
