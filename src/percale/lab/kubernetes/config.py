"""What a lab with Kubernetes is started with. Made by `up`, used by `control_plane`; imports no HTTP client."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from percale.lab.kubernetes.credentials import AGENT, Credentials
from percale.lab.run_dir import LabDir
from percale.model.netconf import NetworkConfig


class KubernetesConfig(Struct, frozen=True):
    """What `lab up --kubernetes` has made before the lab's namespaces."""

    programs: Mapping[str, Path]
    listener: socket.socket
    """Of kubectl outside the lab."""
    lock: int
    """The descriptor that all processes of the lab hold."""
    network: NetworkConfig


def agents_store(lab_dir: LabDir) -> str:
    """The agents' store: they may no more than they need."""
    return f"kubernetes:{Credentials(lab_dir.kubernetes).kubeconfig(AGENT)}"
