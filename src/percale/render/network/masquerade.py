"""A node's static nft tables: the rulesets, with the pod network and what is masqueraded as elements. Called by the agent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.render.network.base_chains import rulesets
from percale.render.network.tunnels import TunnelEnd, tunnel_elements
from percale.render.objects import Element, IPNetwork, KernelObject


def node_tables(
    networks: Iterable[IPNetwork], own: Iterable[IPNetwork], tunnels: Iterable[TunnelEnd] = (), *, masquerade: bool
) -> tuple[KernelObject, ...]:
    """The tables; with `masquerade` (the agent's `ipMasq`) the pod networks and this node's subnets of them as elements.

    `tunnels` are the backend's: pods are kept out of them.
    """
    pods, subnets = tuple(networks), tuple(own)
    masqueraded = (*_members("cluster", pods), *_members("own", subnets)) if masquerade else ()
    return (*rulesets(subnets), *tunnel_elements(tunnels), *_members("pods", pods), *masqueraded)


def _members(name: str, networks: Iterable[IPNetwork]) -> Iterator[Element]:
    for network in networks:
        yield Element("ip" if network.version == 4 else "ip6", name, (network,))
