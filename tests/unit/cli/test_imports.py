"""What commands import before they know what is asked."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["aiohttp", "numpy", "percale.backend.bgp", "yaml"])
def test_an_agent_imports_nothing_before_it_needs_it(module: str) -> None:
    """A tenth of a second of every start, and of every `lab up`; numpy is 12 MiB too."""
    code = f"import sys, percale.agent.main; print({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("module", ["show", "list", "resolve", "check"])
def test_commands_about_services_import_no_numpy(module: str) -> None:
    """It costs 70 ms, and its threads keep the process from entering the user namespace of a lab."""
    code = f"import sys, percale.cli.service.{module}; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
