"""The pod network, this node's tunnels and what is masqueraded, as elements of the node's tables. Called by the agent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.model.addresses import IPNetwork
from percale.model.ip_family import Family
from percale.render.network.elements import Element
from percale.render.network.tunnels import SessionPort, TunnelEnd, session_elements, tunnel_elements


def node_elements(
    networks: Iterable[IPNetwork],
    own: Iterable[IPNetwork],
    tunnels: Iterable[TunnelEnd] = (),
    sessions: Iterable[SessionPort] = (),
    *,
    masquerade: bool,
    unmasqueraded: Iterable[IPNetwork] = (),
) -> tuple[Element, ...]:
    """The pod networks; with `masquerade` (the agent's `ipMasq`) also as what to masquerade, with this node's subnets.

    `unmasqueraded` are parts of the pod network whose pods keep their address. `tunnels` and `sessions` are the backend's: pods
    are kept out of them.
    """
    pods = tuple(networks)
    sets = {"cluster": pods, "localpods": own, "routedpods": unmasqueraded} if masquerade else {}
    masqueraded = (element for name, networks in sets.items() for element in _members(name, networks))
    return (*tunnel_elements(tunnels), *session_elements(sessions), *_members("pods", pods), *masqueraded)


def _members(name: str, networks: Iterable[IPNetwork]) -> Iterator[Element]:
    for network in networks:
        yield Element(Family(network.version).nft, name, (network,))
