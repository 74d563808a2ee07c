"""CNI ADD and DEL requests to a node's agent, as a container runtime makes them. Called by `kubelet`.

The request is sent in the plugin's own format (cni/wire_format.py) without starting the plugin; the network configuration is
the conflist that the agent installed.
"""

from __future__ import annotations

import asyncio
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from msgspec import Struct

from percale.cni.conflist import newest_version
from percale.cni.wire_format import ask
from percale.errors import LabError
from percale.lab.machines.fabric import DEVICE
from percale.lab.run_dir import NodeDir
from percale.model.meta import ObjectKey
from percale.model.pod import ContainerPort


class CniFailed(LabError):
    """The agent answered with a CNI error, or not at all."""


class Sandbox(Struct, frozen=True):
    """A pod's sandbox: its network namespace and what the CNI request says of it."""

    pod: ObjectKey
    uid: str
    namespace: Path
    node: NodeDir
    ports: tuple[ContainerPort, ...] = ()
    """Those with a host port."""

    @property
    def container(self) -> str:
        """The container id: the same for the same pod."""
        return sha256(f"{self.pod}#{self.uid}".encode()).hexdigest()


async def add(sandbox: Sandbox) -> tuple[str, ...]:
    """CNI ADD; the pod's addresses. Raises RuntimeRefused."""
    result = await asyncio.to_thread(_call, "ADD", sandbox)
    return tuple(str(entry["address"]).partition("/")[0] for entry in result.get("ips", ()))


async def delete(sandbox: Sandbox) -> None:
    """CNI DEL. Raises RuntimeRefused."""
    await asyncio.to_thread(_call, "DEL", sandbox)


def _call(command: str, sandbox: Sandbox) -> dict[str, Any]:
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": sandbox.container,
        "CNI_NETNS": str(sandbox.namespace),
        "CNI_IFNAME": DEVICE,
        "CNI_PATH": "",
        "CNI_ARGS": (
            f"IgnoreUnknown=1;K8S_POD_NAMESPACE={sandbox.pod.namespace};K8S_POD_NAME={sandbox.pod.name};"
            f"K8S_POD_INFRA_CONTAINER_ID={sandbox.container};K8S_POD_UID={sandbox.uid}"
        ),
    }
    try:
        configuration = json.dumps(network_configuration(sandbox)).encode()
        descriptor = _open(sandbox.namespace)
        try:
            code, output = ask(sandbox.node.cni_socket, variables, configuration, descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        answer: dict[str, Any] = json.loads(output) if output.strip() else {}
    except (OSError, ValueError) as error:
        raise CniFailed(f"the agent does not answer: {error}", where=sandbox.node.name) from error
    if code != 0:
        details = answer.get("details")
        text = answer.get("msg", "") + (f" ({details})" if details else "")
        raise CniFailed(text or f"exit code {code}", where=f"CNI {command}")
    return answer


def network_configuration(sandbox: Sandbox) -> dict[str, Any]:
    """The first plugin of the first conflist, as a runtime passes it. Raises OSError, ValueError."""
    directory = sandbox.node.cni
    found = sorted(directory.glob("*.conflist"))
    if not found:
        raise FileNotFoundError(f"no conflist in {directory}")
    conflist = json.loads(found[0].read_bytes())
    plugin_config = conflist["plugins"][0]
    config = {"name": conflist["name"], "cniVersion": newest_version(conflist), **plugin_config}
    if sandbox.ports and plugin_config.get("capabilities", {}).get("portMappings"):
        config["runtimeConfig"] = {"portMappings": [_port_mapping(port) for port in sandbox.ports]}
    return config


def _port_mapping(port: ContainerPort) -> dict[str, Any]:
    return {
        "hostPort": port.hostPort,
        "containerPort": port.containerPort,
        "protocol": port.protocol.lower(),
        "hostIP": port.hostIP or "",
    }


def _open(namespace: Path) -> int | None:
    try:
        return os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
