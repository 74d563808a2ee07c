"""The pod network, this node's tunnels and what is masqueraded, as elements of the node's tables. Called by the agent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.render.network.elements import Element
from percale.render.network.tunnels import tunnel_elements
from percale.render.objects import IPNetwork, KernelObject


def node_elements(
    networks: Iterable[IPNetwork], own: Iterable[IPNetwork], device: Iterable[KernelObject] = (), *, masquerade: bool
) -> tuple[Element, ...]:
    """The pod networks; with `masquerade` (the agent's `ipMasq`) also as what to masquerade, with this node's subnets.

    `device` are the backend's objects: pods are kept out of its tunnels.
    """
    pods = tuple(networks)
    masqueraded = (*_members("cluster", pods), *_members("own", own)) if masquerade else ()
    return (*tunnel_elements(device), *_members("pods", pods), *masqueraded)


def _members(name: str, networks: Iterable[IPNetwork]) -> Iterator[Element]:
    for network in networks:
        yield Element("ip" if network.version == 4 else "ip6", name, (network,))
