"""Commands to type that depend on how the agent is installed: in a cluster, beside etcd, in a lab."""

from __future__ import annotations

import os
from pathlib import Path

from percale.checks.host import Host
from percale.lab.run_dir import LabDir, lab_of_node


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


def _lab(host: Host) -> LabDir | None:
    return lab_of_node(Path(host.config.stateDir))
