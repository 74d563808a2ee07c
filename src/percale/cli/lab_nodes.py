"""A command of ours on each node of a lab, as one types it there. Used by `doctor.py` and `support.py`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

_AT_A_TIME = 4
_MAIN = "from percale.cli.main import main; main()"


def on_each_node(lab: str, *command: str) -> Iterator[tuple[str, subprocess.CompletedProcess[bytes]]]:
    """By the node's name. Raises NoSuchLab."""
    from percale.lab.api.client import ask
    from percale.lab.api.status import LabStatus
    from percale.lab.run_dir import locate

    status = msgspec.convert(ask(locate(lab), "status"), LabStatus)
    names = [each.name for each in status.machines if each.agent is not None]

    def run(name: str) -> subprocess.CompletedProcess[bytes]:
        words = [sys.executable, "-c", _MAIN, "lab", "node", "--lab", lab, name, "--", "percale", *command]
        return subprocess.run(words, capture_output=True, check=False)

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        yield from zip(names, pool.map(run, names), strict=True)
