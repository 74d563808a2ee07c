"""Makes the backend for a network's configuration. Called at the start of the agent and of a lab, to fail early."""

from __future__ import annotations

from percale.backend.host_gw import HostGw
from percale.backend.protocol import Backend
from percale.backend.vxlan import VxlanBackend
from percale.errors import BadNetworkConfig
from percale.model.backend_options import HostGwOptions, VxlanOptions
from percale.model.netconf import NetworkConfig


def make_backend(config: NetworkConfig, where: str = "") -> Backend:
    """Raises BadNetworkConfig for a backend of flannel's that is not here; `where` is the configuration's place."""
    match config.options:
        case VxlanOptions():
            return VxlanBackend(config.options)
        case HostGwOptions():
            return HostGw()
    raise BadNetworkConfig(
        f'backend "{config.backend_type}" is not available',
        where=f"{where}: Backend.Type" if where else "Backend.Type",
        hint="use vxlan or host-gw",
    )
