"""Loads the net-conf.json from the agent's configuration, a file, or a ConfigMap of the store."""

from __future__ import annotations

import asyncio

from percale.agent.config.settings import AgentConfig
from percale.agent.informer import Change, Informer, Subscription
from percale.agent.problems import Problems
from percale.errors import BadNetworkConfig
from percale.model.backend_options import ExtensionOptions
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey
from percale.model.netconf import NET_CONF, NetworkConfig, network_config, parse_network_config, read_net_conf
from percale.store.protocol import Deleted, Snapshot, Store

_SOURCE = "network"


async def configured_network(config: AgentConfig, store: Store, problems: Problems) -> NetworkConfig:
    """The cluster's network; without a configured one, waits for the store's. Raises BadNetworkConfig."""
    if config.network is not None:
        return network_config(config.network, "the agent's configuration, network")
    if config.networkFile is not None:
        return parse_network_config(read_net_conf(config.networkFile), config.networkFile)
    informer = Informer(
        store, problems, "store of the network"
    )  # of its own: once the network is known, no ConfigMap concerns the agent
    config_maps = informer.subscribe(ConfigMap)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(informer.run())
        chosen = await _chosen(config_maps, problems)
        watching.cancel()
    informer.close()
    where = f"ConfigMap {chosen.key} {NET_CONF}"
    network = parse_network_config(chosen.data[NET_CONF], where)
    if isinstance(network.options, ExtensionOptions):  # they run as root: not whatever somebody writes into a store
        raise BadNetworkConfig(
            "Backend.Type: commands are taken from a node's own files only", where=where, hint="pass --network-file"
        )
    return network


async def _chosen(config_maps: Subscription, problems: Problems) -> ConfigMap:
    """The one ConfigMap that has a net-conf.json, once there is one."""
    known: dict[ObjectKey, ConfigMap] = {}
    async for event in config_maps.events():
        _update(known, event)
        if len(known) == 1:
            break
        problems.raise_(_SOURCE, _undecided(list(map(str, known))))
    problems.clear(_SOURCE)
    (chosen,) = known.values()
    return chosen


def _update(known: dict[ObjectKey, ConfigMap], event: Change) -> None:
    """The ConfigMaps that have a network."""
    if isinstance(event, Snapshot):
        known.clear()
    for obj in event.objects if isinstance(event, Snapshot) else (event.object,):
        if not isinstance(obj, ConfigMap) or isinstance(event, Deleted) or NET_CONF not in obj.data:
            known.pop(obj.key, None)
        else:
            known[obj.key] = obj


def _undecided(candidates: list[str]) -> BadNetworkConfig:
    if not candidates:
        return BadNetworkConfig(
            f"no ConfigMap with {NET_CONF} in the store",
            hint="apply one such as kube-flannel-cfg, or pass --network-file",
        )
    return BadNetworkConfig(
        f"several ConfigMaps have a {NET_CONF}: {', '.join(sorted(candidates))}",
        hint="keep one of them, or pass --network-file",
    )
