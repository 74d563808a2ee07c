"""The BGP backend: nodes tell each other their subnets by BGP, and routers what is to be reached behind them.

No tunnel: packets go by the underlay as they are, and routers between nodes must know the pods' subnets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from ipaddress import IPv4Address
from pathlib import Path

from percale.backend.bgp.bird_process import TABLE, BirdProcess
from percale.backend.bgp.sessions import NodeFacts, NodeSessions, SessionPlanner, service_blocks
from percale.backend.bgp.speaker import PORT, SECOND_PORT, Speaker
from percale.backend.bgp.world import BgpWorld
from percale.backend.node_checks import require_own_addresses
from percale.backend.peer_path import paths, type_problem
from percale.backend.protocol import KernelBackend, LocalNode, PeerObjects
from percale.model.addresses import IPNetwork, parse_network
from percale.model.backend_options import BgpOptions
from percale.model.subnet_lease import SubnetLease
from percale.render.objects import KernelObject


class BgpBackend(KernelBackend):
    """See `Backend`."""

    type = "bgp"
    keeps_state = True
    session_ports = (("TCP", PORT), ("TCP", SECOND_PORT), ("UDP", 3784), ("UDP", 3785), ("UDP", 4784))
    """BGP's, and BFD's: over one hop, its echoes, which routers may send, and over several (RFC 5881, RFC 5883)."""
    process: BirdProcess
    bgp: BirdProcess

    def __init__(self, options: BgpOptions) -> None:
        self._options = options

    def load(self, directory: Path) -> None:
        """The process keeps its files there."""
        self.process = self.bgp = BirdProcess(directory, partial(plan, options=self._options))

    def pod_mtu(self, node: LocalNode) -> int:
        """The interface's own, the smaller one of two."""
        return node.underlay_mtu

    def check(self, node: LocalNode) -> None:
        """Neighbours send to the public address, and BIRD speaks from it: it must be this node's own."""
        require_own_addresses(self.type, node)

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        """None."""
        return ()

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        """No objects: its routes come by BGP."""
        if (other := type_problem(self.type, lease)) is not None:
            return PeerObjects(problem=other)
        found = list(paths(node, lease))
        return PeerObjects((), tuple(path.gateway for path in found), learned=tuple(path.subnet for path in found))


def plan(
    node: LocalNode, leases: Sequence[SubnetLease], world: BgpWorld, options: BgpOptions
) -> tuple[Speaker, NodeSessions]:
    """The node's speaker, and what was left out of it. Pure."""
    planner = SessionPlanner(node, leases, world.objects, bfd=options.bfd)
    sessions = planner.plan()
    blocks = tuple(dict.fromkeys(parse_network(cidr) for cidrs in service_blocks(world.objects) for cidr in cidrs))
    wide = tuple(block for block in blocks if block.prefixlen < block.max_prefixlen)
    facts = world.objects.nodes.get(node.name, NodeFacts())
    public = {family: each.public_ip for family, each in node.families.items() if each.public_ip is not None}
    speaker = Speaker(
        router_id=_router_id(node),
        addresses=public,
        on_link=_on_link(node),
        networks=world.networks,
        prefixes=world.prefixes,
        services=(*wide, *world.services) if facts.advertises_services else (),
        service_blocks=blocks,
        reflector=planner.reflector is not None,
        sessions=sessions.sessions,
        table=TABLE,
    )
    return speaker, sessions


def _on_link(node: LocalNode) -> dict[IPNetwork, str]:
    return {
        address.network: each.interface.name
        for each in node.families.values()
        for address in each.interface.addresses
        if not address.is_link_local
    }


def _router_id(node: LocalNode) -> IPv4Address:
    """Its IPv4 address; a node without one has a number of its name."""
    for address in node.public_ips:
        if isinstance(address, IPv4Address):
            return address
    return IPv4Address(sha256(node.name.encode()).digest()[:4])
