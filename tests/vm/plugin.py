"""Tests marked `vm` run in the VM (`machine.py`), all of a run in one, and each is reported here as a test of its own.

They need what kernels of containers and of builders lack: ipip, wireguard, netem. Where there is no VM, each of them fails.
The machine starts before the first test and they come last: it runs them beside the others. With pytest-xdist one worker starts
it; all read its results, and it stays until it has run all.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.vm.guest import Result
from tests.vm.machine import Machine, NoMachine, in_vm

_PATIENCE = 570
"""Seconds until all results must be there: the machine is emulated, and this one may be busy. Less than the limit of a test."""
_POLL = 0.1
_OPTIONS = "-p tests.vm.guest -p pytest_asyncio.plugin -p pytest_timeout -o timeout=0 -p no:cacheprovider -q --color=no"
"""Of pytest there. Other plugins take their time to load; `_PATIENCE` limits that of tests."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: needs a kernel with all of Debian's modules, so it runs in the VM")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """What is selected by now, and is to run there, is represented by items at the end that wait for its result."""
    chosen = [item for item in items if item.get_closest_marker("vm") is not None]
    if not chosen or in_vm():
        return
    results = Results(session.config, [item.nodeid for item in chosen])
    session.config.pluginmanager.register(results)
    session.config.add_cleanup(results.close)
    items[:] = [item for item in items if item not in chosen]
    for item in chosen:
        assert item.parent is not None
        items.append(VmItem.from_parent(item.parent, name=item.name, results=results, origin=item.location))


class Results:
    """The results of these tests, as they come; a plugin, which starts the machine before the first test."""

    def __init__(self, config: pytest.Config, chosen: list[str]) -> None:
        self._chosen = chosen
        base: Path = pytest.TempPathFactory.from_config(config, _ispytest=True).getbasetemp()
        self._shared = hasattr(config, "workerinput")
        self._directory = (base.parent if self._shared else base) / "vm"
        self._results, self._end = self._directory / "results", self._directory / "end"
        self._machine: Machine | None = None
        self._watcher: threading.Thread | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if not session.config.option.collectonly:
            with suppress(FileExistsError):  # another worker was first
                self._directory.mkdir()
                self._start()

    def of(self, nodeid: str) -> Result:
        """Waits for it. Raises NoMachine."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            ended = self._end.exists()
            for line in self._results.read_bytes().splitlines(keepends=True) if self._results.exists() else ():
                if line.endswith(b"}\n") and (result := msgspec.json.decode(line, type=Result)).nodeid == nodeid:
                    return result
            if ended:
                raise NoMachine(self._end.read_text())
            time.sleep(_POLL)
        raise NoMachine(f"the VM gave no result within {_PATIENCE} s")

    def _start(self) -> None:
        chosen = self._directory / "chosen"
        chosen.write_text("\n".join(self._chosen))
        words = ["env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", sys.executable, "-m", "pytest", *_OPTIONS.split()]
        try:
            self._machine = Machine(self._directory, [*words, f"@{chosen}"], output=self._results)
        except Exception as error:
            self._end.write_text(str(error) if isinstance(error, NoMachine) else f"the VM does not start: {error!r}")
        else:
            self._watcher = threading.Thread(target=self._watch, args=(self._machine,), name="vm", daemon=True)
            self._watcher.start()

    def _watch(self, machine: Machine) -> None:
        machine.wait()
        self._end.write_text(f"the VM has ended without a result; its console:\n{machine.console()}")

    def close(self) -> None:
        if self._machine is not None and self._watcher is not None:
            if self._shared:
                self._watcher.join(_PATIENCE)
            self._machine.close()
            self._watcher.join()


class VmItem(pytest.Item):
    """One test in the VM."""

    def __init__(self, *, results: Results, origin: tuple[str, int | None, str], **more: Any) -> None:
        super().__init__(**more)
        self._results, self._origin = results, origin

    def runtest(self) -> None:
        result = self._results.of(self.nodeid)
        if result.failure is not None:
            raise _Failed(result.failure)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, _Failed | NoMachine):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[str, int | None, str]:
        return self._origin


class _Failed(Exception):
    """In the VM; the text is pytest's of there."""
