"""Our nft tables as a node wishes them: the three rule sets, and what is masqueraded as elements. The agent calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.render.objects import Element, IPNetwork, KernelObject, Link
from percale.render.ruleset import RULESETS


def node_tables(
    networks: Iterable[IPNetwork], own: Iterable[IPNetwork], device: Iterable[KernelObject] = (), *, masquerade: bool
) -> tuple[KernelObject, ...]:
    """The tables; with `masquerade` (the agent's `ipMasq`) the pod networks and this node's subnets of them as elements.

    `device` is the backend's, whose tunnels' outer packets are not tracked.
    """
    return (*RULESETS, *_tunnels(device), *(_masqueraded(networks, own) if masquerade else ()))


def _tunnels(device: Iterable[KernelObject]) -> Iterator[Element]:
    for link in device:
        if isinstance(link, Link) and link.vxlan is not None:
            yield Element("ip" if link.vxlan.local.version == 4 else "ip6", "tunnels", (link.vxlan.port,))


def _masqueraded(networks: Iterable[IPNetwork], own: Iterable[IPNetwork]) -> Iterator[Element]:
    for name, members in (("cluster", networks), ("own", own)):
        for network in members:
            yield Element("ip" if network.version == 4 else "ip6", name, (network,))
