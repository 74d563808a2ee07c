"""Another backend for all nodes of a lab, agent by agent, while packets go on. Called by `machine_verbs`.

Backend: old ─▶ Backend: new, PreviousBackend: old ─▶ every agent says new ─▶ Backend: new
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from percale.errors import LabError
from percale.lab.api.agent_statuses import statuses_of
from percale.lab.machines.machines import Machines
from percale.model.netconf import DEFAULT_BACKEND, network_config
from percale.suggestion import first_few

_PATIENCE = 10.0
"""Seconds until all nodes are sent to by the new one."""
_POLL = 0.1


async def migrate(machines: Machines, backend: Mapping[str, Any]) -> str:
    """What happened. Raises BadNetworkConfig; LabError, and then the nodes have their old backend again."""
    old = machines.settings.network
    rest = {key: value for key, value in old.items() if key.lower() != "backend"}
    before = next((value for key, value in old.items() if key.lower() == "backend"), {"Type": DEFAULT_BACKEND})
    new = {**rest, "Backend": dict(backend)}
    both = {**new, "PreviousBackend": before}
    was, becomes = network_config(old).backend_type, network_config(new, "--backend").backend_type
    if was == becomes:
        raise LabError(f"the nodes have {was}", hint="its options are changed by way of another backend")
    network_config(both, "--backend")
    try:
        await _restart_all(machines, both)
        await _wait_for(machines, becomes)
    except LabError:
        await _restart_all(machines, old)
        raise
    await _restart_all(machines, new)
    return f"{len(machines.nodes)} nodes have {becomes} instead of {was}"


async def _restart_all(machines: Machines, network: dict[str, Any]) -> None:
    machines.set_network(network)
    for name in machines.nodes:
        await machines.agents.restart(name, kill=False)


async def _wait_for(machines: Machines, backend: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    nodes = [machines.lab_dir.node(name) for name in machines.nodes]
    while True:
        statuses = await statuses_of(nodes)
        if all(status is not None and status.backend == backend for status in statuses):
            return
        if loop.time() > deadline:
            others = [status.otherBackend for status in statuses if status is not None and status.otherBackend]
            waiting = sorted({each for other in others for each in other.waitingFor})
            reason = (
                f"by {backend} they would not reach {first_few(waiting)}" if waiting else "their agents do not answer"
            )
            raise LabError(f"the nodes keep their backend: {reason}")
        await asyncio.sleep(_POLL)
