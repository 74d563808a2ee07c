"""Declares the other nodes' objects from their leases: one source each, so that a peer's change touches its objects only.

    Snapshot, Upserted, Deleted ─▶ peers ─▶ conflicts? ─▶ Backend.peer(local, lease) ─▶ declare("peer/LEASE", objects)
                                     ▲
    local node changed ──────────────┘ all of them again (unchanged ones cost no kernel call)

`node_network.py` makes one once the node has its own subnet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec.structs import replace

from percale.agent.logging import Log
from percale.agent.problems import Problems
from percale.agent.status import Peer
from percale.backend.lease_conflicts import LeaseConflicts, refusal
from percale.backend.protocol import Backend, LocalNode, PeerObjects
from percale.counted import counted
from percale.errors import AgentError
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.subnet_lease import SubnetLease
from percale.render.network.elements import Element
from percale.render.network.tunnels import peer_element
from percale.render.objects import KernelObject, Route

PEERS = "peers"
"""The problem's source."""

Declare = Callable[[str, Iterable[KernelObject]], None]


@dataclass(slots=True)
class _Peer:
    """`left_out`: why it, or one of its address families, has no objects. `silent`: gateways that do not answer.

    `learned`: subnets whose routes a routing daemon brings, each with its route once it is there.
    """

    lease: SubnetLease
    routes: tuple[Route, ...] = ()
    learned: dict[IPNetwork, Route | None] = field(default_factory=dict)
    blocks: tuple[IPNetwork, ...] = ()
    """Of IP pools: they are where its subnet of the same family is."""
    addresses: bool = False
    """It is reached in one address family at least, if it answers."""
    left_out: str | None = None
    silent: tuple[IPAddress, ...] = ()

    @property
    def gateways(self) -> tuple[IPAddress, ...]:
        return tuple(dict.fromkeys(route.via for route in self.routes if route.via is not None))

    @property
    def reached(self) -> bool:
        unknown = self.learned and not any(self.learned.values())
        return self.addresses and not unknown and not (self.silent and set(self.silent) >= set(self.gateways))

    @property
    def problem(self) -> str | None:
        silence = f"no answer from {' and '.join(map(str, self.silent))}" if self.silent else None
        missing = [str(subnet) for subnet, route in self.learned.items() if route is None]
        return self.left_out or silence or (f"no route to {' and '.join(missing)} yet" if missing else None)

    @property
    def all_routes(self) -> tuple[Route, ...]:
        return (*self.routes, *(route for route in self.learned.values() if route is not None))


class Peers:
    """All methods are called on the event loop."""

    def __init__(
        self,
        local: LocalNode,
        backend: Backend,
        networks: Iterable[IPNetwork],
        declare: Declare,
        declare_elements: Callable[[str, Iterable[Element]], None],
        *,
        set_targets: Callable[[str, tuple[IPAddress, ...]], None] = lambda _peer, _gateways: None,
        log: Log,
        problems: Problems,
    ) -> None:
        self._local = local
        self._backend = backend
        self._networks = tuple(networks)
        self._declare = declare
        self._declare_elements = declare_elements
        self._set_targets = set_targets
        self._log = log
        self._problems = problems
        self._with_problem: dict[str, None] = {}
        """Names of leases."""
        self._conflicts = LeaseConflicts(backend.exclusive_ids)
        self._peers: dict[str, _Peer] = {}
        """By lease name."""
        self._reached = 0
        self._blocks: dict[str, tuple[IPNetwork, ...]] = {}
        """Of IP pools, by node."""
        self._names: defaultdict[str, set[str]] = defaultdict(set)
        """Of leases, by node."""
        self._learned: dict[IPNetwork, Route] = {}
        """What a routing daemon has brought."""
        self._learners: dict[IPNetwork, str] = {}
        """The peer that wants a route, by its subnet."""

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def reached(self) -> int:
        """How many are reachable, in one address family at least."""
        return self._reached

    @property
    def routes(self) -> Iterator[Route]:
        """The routes to all peers' pods."""
        for peer in self._peers.values():
            yield from peer.all_routes

    @property
    def leases(self) -> list[SubnetLease]:
        """Of the peers that this backend can reach, whether they answer or not."""
        return [peer.lease for peer in self._peers.values() if peer.addresses]

    def replace(self, leases: Iterable[SubnetLease]) -> Iterator[None]:
        """Replace all leases. A generator, so that the caller can yield to the event loop between them."""
        current = {lease.metadata.name: lease for lease in leases if lease.spec.node != self._local.name}
        for name in self._peers.keys() - current.keys():
            self.remove(self._peers[name].lease)
        first = not self._peers
        for lease in current.values():
            self._put(lease, quietly=first)
            yield
        self._report()
        if first:
            self._log.info("peers known", reached=self.reached, of=len(self))

    def put(self, lease: SubnetLease) -> None:
        """A lease was created or changed."""
        if lease.spec.node == self._local.name:
            self.remove(lease)  # a peer may have held it before
        else:
            self._put(lease, quietly=False)
            self._report()

    def _put(self, lease: SubnetLease, *, quietly: bool) -> None:
        name = lease.metadata.name
        peer = self._peers.get(name)
        if peer is not None and peer.lease.spec == lease.spec:
            return
        if not quietly:
            self._log.info(
                "peer joined" if peer is None else "peer changed",
                node=lease.spec.node,
                subnet=lease.spec.subnets,
                address=" ".join(_public_ips(lease)),
            )
        if peer is None:
            self._peers[name] = _Peer(lease)
        else:
            self._names[peer.lease.spec.node].discard(name)
            peer.lease = lease
        self._names[lease.spec.node].add(name)
        self._render(name)
        if peer is not None:
            self._render_unblocked()

    def remove(self, lease: SubnetLease) -> None:
        """A lease was deleted."""
        name = lease.metadata.name
        peer = self._peers.pop(name, None)
        if peer is None:
            return
        self._log.info("peer left", node=lease.spec.node, subnet=lease.spec.subnets)
        self._names[peer.lease.spec.node].discard(name)
        others = self._names[peer.lease.spec.node] or self._names.pop(peer.lease.spec.node)
        self._reached -= peer.reached
        self._conflicts.remove(name)
        self._with_problem.pop(name, None)
        self._set_learners(name, peer, ())
        self._declare(_source(name), ())
        self._declare_elements(_source(name), ())
        self._set_targets(name, ())
        for other in others if peer.blocks else ():
            self._render(other)
        self._render_unblocked()
        self._report()

    def set_blocks(self, node: str, blocks: tuple[IPNetwork, ...]) -> None:
        """What this node has of IP pools now."""
        usable = tuple(each for each in blocks if any(_within(each, network) for network in self._networks))
        if usable:
            self._blocks[node] = usable
        else:
            self._blocks.pop(node, None)
        for name in sorted(self._names[node]):
            self._render(name)
        self._report()

    def set_silent(self, gateways_by_lease: Mapping[str, tuple[IPAddress, ...]]) -> None:
        """Those gateways of these peers that do not answer; their others do."""
        for name, gateways in gateways_by_lease.items():
            if (peer := self._peers.get(name)) is None:
                continue
            if bool(gateways) != bool(peer.silent):
                self._log.info("peer does not answer" if gateways else "peer answers", node=peer.lease.spec.node)
            reached = peer.reached
            peer.silent = gateways
            self._after_change(name, peer, reached)
        self._report()

    def set_learned(self, dst: IPNetwork, route: Route | None) -> None:
        """A routing daemon has brought this route, or withdrawn it."""
        if route is not None:
            self._learned[dst] = route
        else:
            self._learned.pop(dst, None)
        if (name := self._learners.get(dst)) is None:
            return
        peer = self._peers[name]
        if (peer.learned[dst] is None) != (route is None):
            self._log.info("route withdrawn" if route is None else "route learned", node=peer.lease.spec.node, to=dst)
        reached = peer.reached
        peer.learned[dst] = route
        self._after_change(name, peer, reached)
        self._report()

    def _set_learners(self, name: str, peer: _Peer, subnets: Iterable[IPNetwork]) -> None:
        for subnet in peer.learned:
            self._learners.pop(subnet, None)
        peer.learned = {subnet: self._learned.get(subnet) for subnet in subnets}
        self._learners.update(dict.fromkeys(peer.learned, name))

    def update_local(self, local: LocalNode) -> Iterator[None]:
        """This node changed: render every peer again. A generator likewise."""
        self._local = local
        for name in list(self._peers):
            if name in self._peers:
                self._render(name)
            yield
        self._render_unblocked()
        self._report()

    def status(self) -> tuple[Peer, ...]:
        """Sorted by node."""
        peers = sorted(self._peers.values(), key=lambda peer: peer.lease.spec.node)
        return tuple(
            Peer(
                node=peer.lease.spec.node,
                subnets=tuple(map(str, (*peer.lease.spec.subnets, *peer.blocks))),
                publicIPs=_public_ips(peer.lease),
                backend=peer.lease.spec.backendType,
                path=self._path(peer),
                reached=peer.reached,
                problem=peer.problem,
            )
            for peer in peers
        )

    def _render(self, name: str) -> None:
        peer = self._peers[name]
        rendered = self._rendered(name, peer.lease)
        first = name == min(self._names[peer.lease.spec.node])
        peer.blocks = self._blocks.get(peer.lease.spec.node, ()) if first else ()
        objects = (*rendered.objects, *_block_routes(rendered, peer))
        problem = rendered.problem
        if problem is not None and problem != peer.left_out:
            self._log.warn(
                "peer not reached" if not rendered.addresses else "peer partly reached", lease=name, reason=problem
            )
        elif problem is None and peer.left_out is not None:
            self._log.info("peer reached", lease=name)
        reached, gateways = peer.reached, peer.gateways
        peer.addresses, peer.left_out = bool(rendered.addresses), problem
        peer.routes = tuple(each for each in objects if isinstance(each, Route))
        learned = {each.version for each in rendered.learned}
        self._set_learners(name, peer, (*rendered.learned, *(each for each in peer.blocks if each.version in learned)))
        if peer.gateways != gateways:
            peer.silent = ()
            self._set_targets(name, peer.gateways)
        self._after_change(name, peer, reached)
        self._declare(_source(name), objects)
        self._declare_elements(_source(name), map(peer_element, rendered.addresses))

    def _after_change(self, name: str, peer: _Peer, reached: bool) -> None:
        """`reached` is what it was before."""
        self._reached += peer.reached - reached
        if peer.problem is not None:
            self._with_problem[name] = None
        else:
            self._with_problem.pop(name, None)

    def _path(self, peer: _Peer) -> Literal["direct", "tunnel"] | None:
        """Direct: by the nodes' own network, without a tunnel's device."""
        routes = peer.all_routes
        if not routes:
            return None
        underlay = {each.interface.name for each in self._local.families.values()}
        return "direct" if all(route.dev in underlay for route in routes) else "tunnel"

    def _report(self) -> None:
        """A problem for all of them together: a node may have thousands of peers."""
        name = next(iter(self._with_problem), None)
        if name is None:
            self._problems.clear(PEERS)
            return
        peer, more = self._peers[name], len(self._with_problem) - 1
        what = f"node {peer.lease.spec.node} is {'partly' if peer.reached else 'not'} reached: {peer.problem}"
        others = f" (and {counted(more, 'more node')} with problems)" if more else ""
        self._problems.raise_(PEERS, AgentError(what + others))

    def _rendered(self, name: str, lease: SubnetLease) -> PeerObjects:
        """The peer's objects, and why some or all of them are missing."""
        if (reason := refusal(self._local, self._networks, lease)) is not None:
            self._conflicts.remove(name)
            return PeerObjects(problem=reason)
        if (reason := self._conflicts.admit(lease)) is not None:
            return PeerObjects(problem=reason)
        rendered = self._backend.peer(self._local, lease)
        nothing = not rendered.addresses and rendered.problem is None
        return PeerObjects(problem="no address family in common") if nothing else rendered

    def _render_unblocked(self) -> None:
        """Render peers whose conflict with another peer is over."""
        while unblocked := self._conflicts.unblocked():
            self._render(unblocked[0].metadata.name)


def _block_routes(rendered: PeerObjects, peer: _Peer) -> Iterator[Route]:
    """As those of its subnets."""
    for route in rendered.objects:
        if isinstance(route, Route) and route.dst in peer.lease.spec.subnets:
            yield from (replace(route, dst=block) for block in peer.blocks if block.version == route.dst.version)


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _source(name: str) -> str:
    return f"peer/{name}"


def _public_ips(lease: SubnetLease) -> tuple[str, ...]:
    return tuple(map(str, lease.spec.public_ips))
