"""What a backend is: functions from this node and a peer's lease to kernel objects, and perhaps a program and a directory.

The agent hands the objects to the reconciler under one source per peer, so a peer's change affects its own objects only,
and objects deleted by others are restored without the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec import Struct

from percale.kernel.protocol import Interface
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.ip_family import Family
from percale.model.subnet_lease import BackendData, LeasedFamily, NodeSubnets, SubnetLease, SubnetLeaseSpec
from percale.render.network.tunnels import SessionPort, TunnelEnd
from percale.render.objects import KernelObject

if TYPE_CHECKING:
    from percale.backend.bgp.bird_process import BirdProcess


class LocalFamily(Struct, frozen=True):
    """One address family of this node: its pods' subnet, and the underlay that carries it."""

    subnet: IPNetwork
    interface: Interface
    """The other family's while this one has no underlay."""
    public_ip: IPAddress | None
    """None: no underlay of this family yet."""


class LocalNode(Struct, frozen=True, dict=True):
    """This node as its backend sees it, with the families of the network.

    `on_link` are the networks that its interfaces reach without a gateway: they decide between tunnel and direct route.
    `macs` are those of devices that were taken over: peers and pods know them. `networks` are the cluster's.
    """

    name: str
    families: Mapping[Family, LocalFamily]
    on_link: frozenset[IPNetwork]
    macs: Mapping[str, str] = {}
    networks: tuple[IPNetwork, ...] = ()

    @property
    def interface(self) -> Interface:
        """The first family's."""
        return next(iter(self.families.values())).interface

    @property
    def underlay_mtu(self) -> int:
        """The smaller one of both families' interfaces."""
        return min(each.interface.mtu for each in self.families.values())

    @cached_property
    def subnets(self) -> NodeSubnets:
        return NodeSubnets(*(each.subnet for each in self.families.values()))

    @cached_property
    def underlay_addresses(self) -> list[IPAddress]:
        """All of its interfaces."""
        return [address.ip for each in self.families.values() for address in each.interface.addresses]

    @cached_property
    def public_ips(self) -> tuple[IPAddress, ...]:
        """Of the families with an underlay."""
        return tuple(each.public_ip for each in self.families.values() if each.public_ip is not None)


class ExclusiveId(NamedTuple):
    """What only one node can have in its lease: an address, a MAC, a key."""

    name: str
    value: Hashable
    version: int
    """Of IP: the same value in both families is no conflict."""

    def __str__(self) -> str:
        return f"{self.name}, {self.value}"


class PeerObjects(Struct, frozen=True):
    """What one peer takes of this node's kernel."""

    objects: tuple[KernelObject, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    """By which it is reached, one per family. Its tunnel packets come from there: the guard of this node's lets them in."""
    problem: str | None = None
    """Why the peer, or an address family that both nodes have, is left out; None when all is well."""
    learned: tuple[IPNetwork, ...] = ()
    """Its subnets whose routes are no objects, for a routing daemon brings them."""


class BackendProcess(Protocol):
    """A program that carries packets or routes for a backend (udp's tunnel, a BGP daemon). The agent calls.

    It outlives the agent, as the kernel's state does: the next agent finds it by what is in the backend's directory.
    """

    interval: float
    """Seconds between two checks."""

    async def ensure(self, node: LocalNode, leases: Sequence[SubnetLease]) -> None:
        """Start it if it does not run, and configure it for this node and these peers. Idempotent. Raises PercaleError."""

    async def check(self) -> None:
        """Raises PercaleError when it does not do its work."""

    async def stop(self) -> None:
        """End it: this node has another backend now, or is cleaned up. No effect when it does not run."""


class Backend(Protocol):
    """One way to carry packets between nodes. Pure, except for `load` and its process."""

    @property
    def type(self) -> str:
        """flannel's `Backend.Type`."""

    @property
    def keeps_state(self) -> bool:
        """It has a directory for what outlives the agent: a key, its process's id."""

    @property
    def process(self) -> BackendProcess | None:
        """None: the kernel does all of it."""

    @property
    def bgp(self) -> BirdProcess | None:
        """Its process, when that speaks BGP: the agent tells it the cluster's objects, and mirrors the routes that it brings."""

    @property
    def key_renewal(self) -> Callable[[], bool] | None:
        """Makes another key where somebody has removed the one on disk, and says so. Blocks; raises StateError. None: no key."""

    def load(self, directory: Path) -> None:
        """Read what it keeps in its directory, or make it. Called before all else if it keeps state. Raises StateError."""

    def pod_mtu(self, node: LocalNode) -> int:
        """The MTU of pods' devices, in bytes."""

    def lease_data(self, node: LocalNode) -> Mapping[Family, BackendData]:
        """This node's `backendData` and `backendV6Data`, for its peers; a family without any is left out."""

    def other_backend(self, node: LocalNode) -> str | None:
        """The lease's annotation OTHER_BACKEND, while the node has two."""

    def exclusive_ids(self, spec: SubnetLeaseSpec) -> Iterable[ExclusiveId]:
        """What only one node can have of a lease's backend data."""

    def check(self, node: LocalNode) -> None:
        """Raises BadConfig when this backend cannot work on this node."""

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        """The objects needed once per node."""

    def tunnel_ends(self, node: LocalNode) -> tuple[TunnelEnd, ...]:
        """Where this node takes tunnel packets."""

    @property
    def session_ports(self) -> tuple[SessionPort, ...]:
        """Where its process takes other nodes' messages: no pod may send there."""

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        """The objects for one peer; families that either node lacks, or that have a problem, are left out."""


def lease_spec(backend: Backend, node: LocalNode) -> SubnetLeaseSpec:
    """What this node publishes."""
    data = backend.lease_data(node)
    families = [
        LeasedFamily(family, each.subnet, each.public_ip, data.get(family)) for family, each in node.families.items()
    ]
    return SubnetLeaseSpec.of(node.name, backend.type, families)


class KernelBackend:
    """What is the same for most backends: no state, no process, nothing for peers to know."""

    keeps_state = False
    process: BackendProcess | None = None
    bgp: BirdProcess | None = None
    session_ports: tuple[SessionPort, ...] = ()

    @property
    def key_renewal(self) -> Callable[[], bool] | None:
        """It has no key."""
        return None

    def load(self, directory: Path) -> None:
        """There is nothing to read."""

    def lease_data(self, node: LocalNode) -> Mapping[Family, BackendData]:
        """None needed."""
        return {}

    def other_backend(self, node: LocalNode) -> str | None:
        """None."""

    def exclusive_ids(self, spec: SubnetLeaseSpec) -> Iterable[ExclusiveId]:
        """None."""
        return ()

    def tunnel_ends(self, node: LocalNode) -> tuple[TunnelEnd, ...]:
        """None."""
        return ()
