"""Compiles the CNI plugin into the wheel, which is then of one architecture: the compiler's (`CC`, e.g. a cross compiler).

Only an agent that installs the plugin (`cni.binDir`) needs it. Without a compiler the wheel has none, and fits everywhere.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLUGIN = "src/percale/cni/percale-cni"
FLAGS = ("-std=gnu11", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror")
PLATFORMS = {"arm": "armv7l", "powerpc64le": "ppc64le"}
"""Of wheels, where the compiler has another name for it."""


class CniPlugin(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling for a wheel, and for `pip install -e`, where the plugin is built into the tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compiler = shlex.split(os.environ.get("CC", "cc"))
        source = Path(self.root, f"{PLUGIN}.c")
        if version == "editable":
            target = Path(self.root, PLUGIN)
            target.unlink(missing_ok=True)
        else:
            self._directory = TemporaryDirectory()
            target = Path(self._directory.name, Path(PLUGIN).name)
            build_data["force_include"][str(target)] = PLUGIN.removeprefix("src/")
        if shutil.which(compiler[0]) is None:
            self.app.display_warning(f"no C compiler ({compiler[0]}): without {target.name}")
            build_data["force_include"].pop(str(target), None)
            return
        subprocess.run([*compiler, *FLAGS, "-o", str(target), str(source)], check=True)
        machine = subprocess.run([*compiler, "-dumpmachine"], check=True, capture_output=True, text=True).stdout
        architecture = machine.partition("-")[0]
        build_data["tag"] = f"py3-none-linux_{PLATFORMS.get(architecture, architecture)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._directory.cleanup()
