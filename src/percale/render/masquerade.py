"""Our nft tables as a node wishes them: the three rule sets, and what is masqueraded as elements. The agent calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.render.objects import Element, IPNetwork, KernelObject
from percale.render.ruleset import RULESETS


def node_tables(
    networks: Iterable[IPNetwork], own: Iterable[IPNetwork], *, masquerade: bool
) -> tuple[KernelObject, ...]:
    """The tables; with `masquerade` (the agent's `ipMasq`) the pod networks and this node's subnets of them as elements."""
    return (*RULESETS, *(_masqueraded(networks, own) if masquerade else ()))


def _masqueraded(networks: Iterable[IPNetwork], own: Iterable[IPNetwork]) -> Iterator[Element]:
    for name, members in (("cluster", networks), ("own", own)):
        for network in members:
            yield Element("ip" if network.version == 4 else "ip6", name, (network,))
