"""Our nft tables as a node wishes them: the rule sets; tunnels, the pod network and what is masqueraded are elements.

The agent calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.render.objects import Element, Family, IPNetwork, KernelObject, Link
from percale.render.ruleset import RULESETS


def node_tables(
    networks: Iterable[IPNetwork], own: Iterable[IPNetwork], device: Iterable[KernelObject] = (), *, masquerade: bool
) -> tuple[KernelObject, ...]:
    """The tables; with `masquerade` (the agent's `ipMasq`) the pod networks and this node's subnets of them as elements.

    `device` is the backend's, whose tunnels' outer packets are not tracked, and which no pod enters.
    """
    pods = tuple(networks)
    masqueraded = (*_members("cluster", pods), *_members("own", own)) if masquerade else ()
    return (*RULESETS, *_tunnels(device), *_members("pods", pods), *masqueraded)


def tunnel_ports(device: Iterable[KernelObject]) -> set[int]:
    """The UDP ports of the backend's tunnels."""
    return {link.vxlan.port for link in device if isinstance(link, Link) and link.vxlan is not None}


def _tunnels(device: Iterable[KernelObject]) -> Iterator[Element]:
    for link in device:
        if isinstance(link, Link) and link.vxlan is not None:
            families: tuple[Family, ...] = ("ip",) if link.vxlan.local.version == 4 else ("ip6", "bridge")
            yield from (Element(family, "tunnels", (link.vxlan.port,)) for family in families)


def _members(name: str, networks: Iterable[IPNetwork]) -> Iterator[Element]:
    for network in networks:
        yield Element("ip" if network.version == 4 else "ip6", name, (network,))
