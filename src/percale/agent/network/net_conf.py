"""Loads the net-conf.json from the agent's configuration, a file, or a ConfigMap of the store."""

from __future__ import annotations

from pathlib import Path

from percale.agent.config.settings import AgentConfig
from percale.agent.informer import Change, Subscription
from percale.agent.problems import Problems
from percale.errors import BadNetworkConfig
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey
from percale.model.netconf import NetworkConfig, network_config, parse_network_config
from percale.store.protocol import Deleted, Snapshot

KEY = "net-conf.json"
_SOURCE = "network"


def configured_network(config: AgentConfig) -> NetworkConfig | None:
    """The network of the configuration or its file; None: the store has it. Raises BadNetworkConfig."""
    if config.network is not None:
        return network_config(config.network, "the agent's configuration, network")
    return _from_file(Path(config.networkFile)) if config.networkFile is not None else None


async def stored_network(config_maps: Subscription, problems: Problems) -> NetworkConfig:
    """The network of the one ConfigMap that has a net-conf.json; waits for it. Raises BadNetworkConfig."""
    known: dict[ObjectKey, ConfigMap] = {}
    async for event in config_maps.events():
        _update(known, event)
        if len(known) == 1:
            break
        problems.raise_(_SOURCE, _undecided(list(map(str, known))))
    problems.clear(_SOURCE)
    (chosen,) = known.values()
    return parse_network_config(chosen.data[KEY], f"ConfigMap {chosen.key} {KEY}")


def _update(known: dict[ObjectKey, ConfigMap], event: Change) -> None:
    """The ConfigMaps that have a network."""
    if isinstance(event, Snapshot):
        known.clear()
    for obj in event.objects if isinstance(event, Snapshot) else (event.object,):
        if not isinstance(obj, ConfigMap) or isinstance(event, Deleted) or KEY not in obj.data:
            known.pop(obj.key, None)
        else:
            known[obj.key] = obj


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
