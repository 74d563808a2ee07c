"""The extension backend, flannel's: commands of the operator's own carry packets between nodes.

    PreStartupCommand ─ what it prints ─▶ lease ─▶ stdin of the peers' SubnetAddCommand, SubnetRemoveCommand
    own subnet ─▶ PostStartupCommand

`commands.py` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from percale.backend.alloc import AllocBackend
from percale.backend.extension.commands import ExtensionCommands
from percale.backend.protocol import LocalNode
from percale.model.backend_options import ExtensionOptions
from percale.model.ip_family import Family
from percale.model.subnet_lease import BackendData


class ExtensionBackend(AllocBackend):
    """See `Backend`."""

    type = "extension"
    keeps_state = True
    process: ExtensionCommands | None = None

    def __init__(self, options: ExtensionOptions) -> None:
        self._options = options
        self._output = ""

    def load(self, directory: Path) -> None:
        """Runs PreStartupCommand."""
        self.process = ExtensionCommands(directory, self._options)
        self._output = self.process.prepare()

    def lease_data(self, node: LocalNode) -> Mapping[Family, BackendData]:
        """What PreStartupCommand has printed; flannel's has it for IPv4 alone."""
        return dict.fromkeys(node.families, self._output) if self._output else {}
