"""The network configuration list by which a container runtime calls us; written last, once the node can attach pods.

The runtime takes the first file of its directory by name, so ours begins with 10. Called by the agent, and by the lab for a
flannel ConfigMap's cni-conf.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from percale.atomic_file import replace_file
from percale.cni.install import NAME, install_plugin
from percale.cni.requests import POD_ANNOTATIONS
from percale.cni.results import LATEST
from percale.errors import BadNetworkConfig, StateError
from percale.model.manifest.json_text import read_json_text
from percale.render.network.pod_veth import Wiring

FILE = "10-percale.conflist"
_OLDER = "1.0.0"
"""containerd 1.6's."""
_FLANNEL, _PORTMAP = "flannel", "portmap"


class Runtime(Protocol):
    """The container runtime's directories and the wiring of pods (the agent's `cni` settings)."""

    @property
    def confDir(self) -> str: ...  # noqa: N802
    @property
    def binDir(self) -> str | None: ...  # noqa: N802
    @property
    def socket(self) -> str: ...
    @property
    def wiring(self) -> Wiring: ...


def install(runtime: Runtime) -> None:
    """The plugin if it has a place, then the list. Raises StateError."""
    if runtime.binDir is not None:
        install_plugin(Path(runtime.binDir), runtime.socket)
    path = Path(runtime.confDir) / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, _encoded(conflist(runtime.wiring)), mode=0o644)
    except OSError as error:
        raise StateError(f"the conflist cannot be written: {error.strerror}", where=str(path)) from error


def uninstall(runtime: Runtime) -> list[Path]:
    """The list first, then the plugin; what was removed. The directories stay. Raises StateError."""
    paths = [Path(runtime.confDir) / FILE, *([Path(runtime.binDir) / NAME] if runtime.binDir is not None else [])]
    removed = []
    for path in paths:
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StateError(f"cannot be removed: {error.strerror}", where=str(path)) from error
        removed.append(path)
    return removed


def conflist(wiring: Wiring, name: str = "percale") -> dict[str, Any]:
    """Our plugin alone. A runtime that does not know `cniVersions` refuses a list of a version newer than its own."""
    return {"cniVersion": _OLDER, "cniVersions": [_OLDER, LATEST], "name": name, "plugins": [_plugin(wiring)]}


def newest_version(document: Mapping[str, Any]) -> str:
    """The version in which a runtime that knows all of them calls the plugins (CNI 1.1.0, "cniVersions")."""
    versions: list[str] = [document.get("cniVersion", "0.1.0"), *document.get("cniVersions", ())]
    return max(
        versions,
        key=lambda version: tuple(map(int, version.split("."))),
    )


def _plugin(wiring: Wiring, *, host_ports: bool = True) -> dict[str, Any]:
    names = ("ips", "mac", "bandwidth", POD_ANNOTATIONS, *(("portMappings",) if host_ports else ()))
    capabilities = dict.fromkeys(names, True)
    return {"type": NAME, "wiring": wiring, "capabilities": capabilities}


def from_flannel(text: str, where: str) -> dict[str, Any]:
    """flannel's cni-conf.json as a list of ours: its plugin becomes ours, the rest of the chain stays.

    flannel delegates to `bridge` by default, so the pods are attached to a bridge. Raises BadNetworkConfig.
    """
    document = checked(text, where)
    # Where the chain has portmap, host ports are portmap's.
    host_ports = all(plugin.get("type") != _PORTMAP for plugin in document["plugins"])
    plugins = [
        _plugin(_delegated(plugin, where), host_ports=host_ports) if plugin.get("type") == _FLANNEL else plugin
        for plugin in document["plugins"]
    ]
    return {**document, "plugins": plugins}


def wiring_of(text: str, where: str) -> Wiring:
    """How a cni-conf.json wires pods: routed unless a plugin of it says bridge. Raises BadNetworkConfig."""
    for plugin in checked(text, where)["plugins"]:
        if plugin.get("type") == _FLANNEL:
            return _delegated(plugin, where)
        if plugin.get("type") == NAME:
            return "bridge" if plugin.get("wiring") == "bridge" else "routed"
    return "routed"


def _delegated(plugin: dict[str, Any], where: str) -> Wiring:
    delegate = plugin.get("delegate") or {}
    if not isinstance(delegate, dict):
        raise BadNetworkConfig("plugins: delegate: expected an object", where=where)
    kind = delegate.get("type", "bridge")
    if kind == "bridge":
        return "bridge"
    if kind == "ptp":
        return "routed"
    raise BadNetworkConfig(
        f'flannel delegates to "{kind}" here', where=where, hint="leave the type out, or use bridge or ptp"
    )


def checked(text: str, where: str) -> dict[str, Any]:
    """A list of plugins; a single plugin's configuration counts as a list of one."""
    try:
        document = read_json_text(text)
    except json.JSONDecodeError as error:
        raise BadNetworkConfig(f"not valid JSON: {error.msg}", where=f"{where}:{error.lineno}") from error
    if isinstance(document, dict) and "plugins" not in document and "type" in document:
        document = {
            "cniVersion": document.get("cniVersion", LATEST),
            "name": document.get("name", ""),
            "plugins": [document],
        }
    if isinstance(document, dict):
        plugins = document.get("plugins")
        if isinstance(plugins, list) and all(isinstance(plugin, dict) for plugin in plugins):
            return document
    raise BadNetworkConfig("expected an object with a list of plugins", where=where)


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"
