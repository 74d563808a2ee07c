"""Our nft tables as a node wishes them: the rule sets; tunnels, the pod network and what is masqueraded are elements.

The agent calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.render.objects import Element, IPNetwork, KernelObject, Link
from percale.render.ruleset import RULESETS


def node_tables(
    networks: Iterable[IPNetwork], own: Iterable[IPNetwork], device: Iterable[KernelObject] = (), *, masquerade: bool
) -> tuple[KernelObject, ...]:
    """The tables; with `masquerade` (the agent's `ipMasq`) the pod networks and this node's subnets of them as elements.

    `device` is the backend's, whose tunnels' outer packets are not tracked, and which no pod enters.
    """
    pods = tuple(networks)
    masqueraded = _masqueraded(pods, own) if masquerade else ()
    return (*RULESETS, *_tunnels(device), *_guarded(pods), *masqueraded)


def _tunnels(device: Iterable[KernelObject]) -> Iterator[Element]:
    ports: set[int] = set()
    for link in device:
        if isinstance(link, Link) and link.vxlan is not None:
            yield Element("ip" if link.vxlan.local.version == 4 else "ip6", "tunnels", (link.vxlan.port,))
            ports.add(link.vxlan.port)
    yield from (Element("bridge", "tunnels", (port,)) for port in ports)


def _guarded(pods: Iterable[IPNetwork]) -> Iterator[Element]:
    for network in pods:
        yield Element("ip" if network.version == 4 else "ip6", "pods", (network,))
        yield Element("bridge", "pods" if network.version == 4 else "pods6", (network,))


def _masqueraded(networks: Iterable[IPNetwork], own: Iterable[IPNetwork]) -> Iterator[Element]:
    for name, members in (("cluster", networks), ("own", own)):
        for network in members:
            yield Element("ip" if network.version == 4 else "ip6", name, (network,))
