"""Kubernetes' programs: where they are, and keeping them running. Called by `up` and by `control_plane`."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from percale.backoff import Backoff
from percale.errors import LabError
from percale.lab.log import log
from percale.lab.run_dir import log_tail

NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
"""Seconds before a program that has ended is started again."""
_CANNOT_START = 2.0
"""Seconds: one that ends sooner at its first start never will run."""
_LONGEST_REASON = 300
"""Characters of a log's last line."""


def find_programs(environ: Mapping[str, str]) -> dict[str, Path]:
    """Each from the newest build of `make kubernetes`, else from the PATH. Raises LabError with what to type."""
    cache = _cache(environ)
    builds = sorted(cache.glob("kubernetes-*"), key=_version, reverse=True)
    path = os.pathsep.join([*map(str, builds[:1]), environ.get("PATH", os.defpath)])
    found = {name: shutil.which(name, path=path) for name in (*NAMES, "openssl")}
    if found["openssl"] is None:
        raise LabError("openssl is not installed", hint="type: sudo apt-get install -y openssl")
    if missing := [name for name in NAMES if found[name] is None]:
        raise LabError(
            f"Kubernetes' programs are missing: {', '.join(missing)} (neither in {cache} nor on the PATH)",
            hint="type: make kubernetes, in a checkout of Percale: it builds them once, with Go, in some 8 minutes;"
            " or put those of a Kubernetes release on the PATH",
        )
    return {name: Path(place) for name, place in found.items() if place is not None and name in NAMES}


def _cache(environ: Mapping[str, str]) -> Path:
    """As scripts/kubernetes-binaries has it."""
    if given := environ.get("PERCALE_CACHE"):
        return Path(given)
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path(environ.get("HOME", "/")) / ".cache") / "percale"


def _version(build: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", build.name)))


class RunningPrograms:
    """Used on the controller's event loop."""

    def __init__(self, directory: Path, lock: int) -> None:
        """`directory` has their logs. They hold the lab's `lock`, as all its processes."""
        self._directory = directory
        self._lock = lock
        self._ended: dict[str, str] = {}

    @property
    def problems(self) -> list[str]:
        """Those that have ended, and are about to be started again."""
        return list(self._ended.values())

    async def run(self, command: Sequence[str]) -> None:
        """Run a program until cancelled, again when it ends. Raises LabError for one that cannot start."""
        name = Path(command[0]).name
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        loop = asyncio.get_running_loop()
        is_first = True
        while True:
            started = loop.time()
            status = await self._run_once(name, command)
            lived = loop.time() - started
            if not self._directory.exists():
                raise LabError("the lab ends: its directory is gone", where=str(self._directory))
            what = f"{name} ended ({status}): {log_tail(self.log(name))[:_LONGEST_REASON]}"
            if is_first and lived < _CANNOT_START:
                raise LabError(what)
            is_first = False
            log(what)
            self._ended[name] = what
            if lived > _LONGEST_PAUSE:
                backoff.reset()
            await asyncio.sleep(backoff.next())
            del self._ended[name]

    def log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    async def _run_once(self, name: str, command: Sequence[str]) -> int:
        with self.log(name).open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._directory,
                pass_fds=(self._lock,),
            )
        try:
            return await process.wait()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
