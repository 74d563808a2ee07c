"""Loads the net-conf.json from the agent's configuration, a file, or the store's ConfigMap."""

from __future__ import annotations

import asyncio
from pathlib import Path

from percale.agent.config.settings import AgentConfig
from percale.agent.problems import Problems
from percale.agent.watch import follow
from percale.errors import BadNetworkConfig
from percale.model.configmap import ConfigMap
from percale.model.netconf import NetworkConfig, network_config, parse_network_config
from percale.store.protocol import Deleted, Snapshot, Store, Upserted

KEY = "net-conf.json"
_SOURCE = "network"


async def configured_network(config: AgentConfig, store: Store, problems: Problems) -> NetworkConfig:
    """The cluster's network; without a configured one, waits for the store's. Raises BadNetworkConfig."""
    if config.network is not None:
        return network_config(config.network, "the agent's configuration, network")
    if config.networkFile is not None:
        return _from_file(Path(config.networkFile))
    found: asyncio.Future[ConfigMap] = asyncio.get_running_loop().create_future()
    known: dict[str, ConfigMap] = {}

    async def on_event(event: Snapshot | Upserted | Deleted) -> None:
        if isinstance(event, Snapshot):
            known.clear()
        for obj in event.objects if isinstance(event, Snapshot) else (event.object,):
            if not isinstance(obj, ConfigMap) or isinstance(event, Deleted) or KEY not in obj.data:
                known.pop(str(obj.key), None)
            else:
                known[str(obj.key)] = obj
        if len(known) == 1 and not found.done():
            found.set_result(*known.values())
        else:
            problems.raise_(_SOURCE, _undecided(list(known)))

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(follow(store, (ConfigMap,), on_event, problems))
        chosen = await found
        watching.cancel()
    problems.clear(_SOURCE)
    return parse_network_config(chosen.data[KEY], f"ConfigMap {chosen.key} {KEY}")


def _undecided(candidates: list[str]) -> BadNetworkConfig:
    if not candidates:
        return BadNetworkConfig(
            f"no ConfigMap with {KEY} in the store", hint="apply one such as kube-flannel-cfg, or pass --network-file"
        )
    return BadNetworkConfig(
        f"several ConfigMaps have a {KEY}: {', '.join(sorted(candidates))}",
        hint="keep one of them, or pass --network-file",
    )


def _from_file(path: Path) -> NetworkConfig:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadNetworkConfig(f"cannot be read: {reason}", where=str(path)) from error
    return parse_network_config(text, str(path))
