"""libcni's own tool as a node's container runtime: it finds the conflist, calls the plugins, and keeps their results."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster.api_server import program
from tests.kernel.agent.cluster import NETNS, Node

STATE = Path("/var/lib/cni")
"""Where it keeps results; the tests have a directory of their own there."""


def cnitool(
    node: Node, verb: str, network: str, pod: str, plugins: Sequence[Path], capabilities: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """In the node, for the pod's namespace."""
    environment = {
        **os.environ,
        "NETCONFPATH": str(node.directory / "net.d"),
        "CNI_PATH": ":".join(map(str, plugins)),
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}",
        **({"CAP_ARGS": json.dumps(capabilities)} if capabilities else {}),
    }
    command = ["nsenter", f"--net={NETNS / node.name}", str(program("cnitool")), verb, network, str(NETNS / pod)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
