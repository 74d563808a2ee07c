"""Commands to type that depend on how the agent is installed: in a cluster, beside etcd, in a lab."""

from __future__ import annotations

import os
from pathlib import Path

from percale.checks.host import Host
from percale.lab.commands import run_at
from percale.lab.run_dir import LabDir, lab_of_node

_OF_THE_MACHINE = ("modprobe ", "echo ", "apt-get ")
"""Commands that are about its kernel and packages."""


def restart(host: Host) -> str:
    """The agent."""
    node = host.config.node
    if (lab_dir := _lab(host)) is not None:
        return lab_dir.command(f"restart-agent {node}")
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return f"kubectl -n percale delete pod --field-selector spec.nodeName={node}"
    return "systemctl restart percale"


def kubectl(host: Host, words: str) -> str:
    """`get`, `describe` or `delete` with its arguments, which a lab has as well."""
    lab_dir = _lab(host)
    return lab_dir.command(words) if lab_dir is not None else f"kubectl {words}"


def doctor(host: Host, where: str) -> str:
    """A lab's is of all nodes."""
    lab_dir = _lab(host)
    return f"percale doctor{'' if lab_dir is None else f' --lab {lab_dir.name}'}   # {where}"


def on_node(host: Host, node: str, command: str) -> str:
    """Another node than the host."""
    lab_dir = _lab(host)
    return f"{command if lab_dir is None else run_at(lab_dir.name, node, command)}   # on {node}"


def as_typed(host: Host, command: str) -> str:
    """One of this host's. Who works with a lab types it on the lab's machine, whose own network it must not change."""
    lab_dir = _lab(host)
    if lab_dir is None or command.startswith(("percale lab ", "percale doctor --lab ", *_OF_THE_MACHINE)):
        return command
    return run_at(lab_dir.name, host.config.node, command)


def _lab(host: Host) -> LabDir | None:
    return lab_of_node(Path(host.config.stateDir))
