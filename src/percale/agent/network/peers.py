"""The other nodes, from their leases to the reconciler: one source for each, so that a peer's change touches its objects only.

    Snapshot, Upserted, Deleted ─▶ peers ─▶ clashes? ─▶ Backend.peer(local, lease) ─▶ want("peer/LEASE", objects)
                                     ▲
    local node changed ──────────────┘ all of them again (what is equal costs no kernel call)

`node_agent.py` makes one when the node knows its own place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from percale.agent.logging import Log
from percale.agent.status import Peer
from percale.backend.lease_conflicts import LeaseConflicts, refusal
from percale.backend.protocol import Backend, LocalNode
from percale.ipam.subnet_plan import subnets_of
from percale.model.subnet_lease import SubnetLease
from percale.render.objects import KernelObject, Route

Want = Callable[[str, Iterable[KernelObject]], None]


@dataclass(slots=True)
class _Peer:
    """`problem`: why it, or one of its families, is not reached."""

    lease: SubnetLease
    routes: tuple[Route, ...] = ()
    reached: bool = False
    problem: str | None = None


class Peers:
    """All methods are called on the event loop."""

    def __init__(self, local: LocalNode, backend: Backend, want: Want, log: Log) -> None:
        self._local = local
        self._backend = backend
        self._want = want
        self._log = log
        self._rivals = LeaseConflicts()
        self._peers: dict[str, _Peer] = {}
        """By lease name."""
        self._reached = 0

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def reached(self) -> int:
        """How many have a way, in one family at least."""
        return self._reached

    @property
    def routes(self) -> Iterator[Route]:
        """By which all peers' pods are reached."""
        for peer in self._peers.values():
            yield from peer.routes

    def replace(self, leases: Iterable[SubnetLease]) -> Iterator[None]:
        """These are all leases that there are. Yields between them, for the caller to breathe."""
        current = {lease.metadata.name: lease for lease in leases if lease.spec.node != self._local.name}
        for name in self._peers.keys() - current.keys():
            self.remove(self._peers[name].lease)
        first = not self._peers
        for lease in current.values():
            self._put(lease, quietly=first)
            yield
        if first:
            self._log.info("peers known", reached=self.reached, of=len(self))

    def put(self, lease: SubnetLease) -> None:
        """A lease is new or changed."""
        if lease.spec.node == self._local.name:
            self.remove(lease)  # a peer may have held it before
        else:
            self._put(lease, quietly=False)

    def _put(self, lease: SubnetLease, *, quietly: bool) -> None:
        name = lease.metadata.name
        peer = self._peers.get(name)
        if peer is not None and peer.lease.spec == lease.spec:
            return
        if not quietly:
            self._log.info(
                "peer joined" if peer is None else "peer changed",
                node=lease.spec.node,
                subnet=subnets_of(lease.spec),
                address=" ".join(_public_ips(lease)),
            )
        if peer is None:
            self._peers[name] = _Peer(lease)
        else:
            peer.lease = lease
        self._render(name)
        if peer is not None:
            self._admit_freed()

    def remove(self, lease: SubnetLease) -> None:
        """A lease is gone."""
        name = lease.metadata.name
        peer = self._peers.pop(name, None)
        if peer is None:
            return
        self._log.info("peer left", node=lease.spec.node, subnet=subnets_of(lease.spec))
        self._reached -= peer.reached
        self._rivals.remove(name)
        self._want(_source(name), ())
        self._admit_freed()

    def move(self, local: LocalNode) -> Iterator[None]:
        """This node is another now: render every peer again. Yields likewise."""
        self._local = local
        for name in list(self._peers):
            if name in self._peers:
                self._render(name)
            yield
        self._admit_freed()

    def status(self) -> tuple[Peer, ...]:
        """All of them, by node."""
        peers = sorted(self._peers.values(), key=lambda peer: peer.lease.spec.node)
        return tuple(
            Peer(
                node=peer.lease.spec.node,
                subnets=tuple(map(str, subnets_of(peer.lease.spec))),
                publicIPs=_public_ips(peer.lease),
                backend=peer.lease.spec.backendType,
                reached=peer.reached,
                problem=peer.problem,
            )
            for peer in peers
        )

    def _render(self, name: str) -> None:
        peer = self._peers[name]
        objects, problem = self._way(name, peer.lease)
        if problem is not None and problem != peer.problem:
            self._log.warn("peer not reached" if not objects else "peer partly reached", lease=name, reason=problem)
        elif problem is None and peer.problem is not None:
            self._log.info("peer reached", lease=name)
        self._reached += bool(objects) - peer.reached
        peer.reached, peer.problem = bool(objects), problem
        peer.routes = tuple(each for each in objects if isinstance(each, Route))
        self._want(_source(name), objects)

    def _way(self, name: str, lease: SubnetLease) -> tuple[tuple[KernelObject, ...], str | None]:
        """The peer's objects, and why some or all of them are left out."""
        if (reason := refusal(self._local, lease)) is not None:
            self._rivals.remove(name)
            return (), reason
        if (reason := self._rivals.admit(lease)) is not None:
            return (), reason
        objects = self._backend.peer(self._local, lease)
        problem = self._backend.problem(self._local, lease)
        return objects, problem or (None if objects else "no address family in common")

    def _admit_freed(self) -> None:
        """Whoever waited for what another node had."""
        while unblocked := self._rivals.unblocked():
            self._render(unblocked[0].metadata.name)


def _source(name: str) -> str:
    return f"peer/{name}"


def _public_ips(lease: SubnetLease) -> tuple[str, ...]:
    return tuple(str(address) for address in (lease.spec.publicIP, lease.spec.publicIPv6) if address is not None)
