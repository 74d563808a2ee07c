"""Selects the interface and addresses by which peers reach this node, again after each change. Used by `subnet_manager.py`.

While no interface is usable the last selection stays in effect.
"""

from __future__ import annotations

import asyncio

from percale.agent.config.settings import AgentConfig
from percale.agent.problems import Problems
from percale.backend.interface_selection import InterfaceOptions, UnderlayAddress, select_interface
from percale.errors import BadConfig
from percale.kernel.reconciler.reconciler import Reconciler
from percale.model.ip_family import Family
from percale.model.netconf import NetworkConfig

UNDERLAY, FAMILY, OVERLAP = "underlay", "underlay family", "underlay overlap"
"""Problem sources: no usable interface; none in one of the two address families; an own address within the pod network."""


class UnderlayMonitor:
    """All methods are called on the event loop."""

    def __init__(self, config: AgentConfig, network: NetworkConfig, reconciler: Reconciler, problems: Problems) -> None:
        self._options = interface_options(config)
        self._network = network
        self._reconciler = reconciler
        self._problems = problems
        self._changed = asyncio.Event()
        self._changed.set()
        reconciler.on_underlay(lambda _underlay: self._changed.set())

    async def select(self, current: UnderlayAddress | None = None) -> UnderlayAddress:
        """Wait for a selection that is not the current one."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            found = self._select()
            if found is not None and found != current:
                return found

    def _select(self) -> UnderlayAddress | None:
        """For all of the network's address families, else for one of them, which may be all that the backend needs."""
        families = tuple(self._network.families)
        required = self._network.options.required_underlay(families)
        missing: BadConfig | None = None
        for attempt in dict.fromkeys((families, *((each,) for each in families))):
            try:
                found = select_interface(self._options, self._reconciler.underlay, attempt)
            except BadConfig as error:
                missing = missing or error
                continue
            self._problems.clear(UNDERLAY)
            if missing is None or found.families.keys() >= set(required):
                self._problems.clear(FAMILY)
            else:
                self._problems.raise_(FAMILY, missing)
            self._check_overlap(found)
            return found
        assert missing is not None
        self._problems.raise_(UNDERLAY, missing)
        return None

    def _check_overlap(self, found: UnderlayAddress) -> None:
        """A machine's address within the pod network is ambiguous: packets to it may be treated as a pod's."""
        for _, own in found.families.values():
            for network in self._network.networks:
                if own in network:
                    what = f"the pod network {network} holds this node's own address {own}"
                    self._problems.raise_(OVERLAP, BadConfig(what, hint="choose a Network that no machine has"))
                    return
        self._problems.clear(OVERLAP)


def interface_options(config: AgentConfig) -> InterfaceOptions:
    """How the interface between nodes is selected."""
    public_ips = {Family.IPV4: config.publicIP, Family.IPV6: config.publicIPv6}
    return InterfaceOptions(config.iface, config.ifaceRegex, config.ifaceCanReach, public_ips)
