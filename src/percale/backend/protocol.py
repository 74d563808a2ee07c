"""What a backend is: functions from this node and a peer's lease to kernel objects, and perhaps a program and a directory.

The agent hands the objects to the reconciler under one source per peer, so a peer's change affects its own objects only,
and objects deleted by others are restored without the backend.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from percale.kernel.protocol import Interface
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec
from percale.render.network.tunnels import TunnelEnd
from percale.render.objects import IPAddress, IPNetwork, KernelObject


class LocalNode(Struct, frozen=True):
    """This node as its backend sees it.

    `interface` carries the underlay (`interface_v6` when IPv6 leaves by another one), `on_link` are the networks that
    it reaches without a gateway: they decide between tunnel and direct route.
    """

    name: str
    subnet: IPv4Network | None
    ipv6_subnet: IPv6Network | None
    public_ip: IPv4Address | None
    public_ipv6: IPv6Address | None
    interface: Interface
    interface_v6: Interface
    on_link: frozenset[IPNetwork]


class PeerObjects(Struct, frozen=True):
    """What one peer takes of this node's kernel."""

    objects: tuple[KernelObject, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    """By which it is reached, one per family. Its tunnel packets come from there: the guard of this node's lets them in."""
    problem: str | None = None
    """Why the peer, or an address family that both nodes have, is left out; None when all is well."""


class BackendProcess(Protocol):
    """A program that carries packets or routes for a backend (udp's tunnel, a BGP daemon). The agent calls.

    It outlives the agent, as the kernel's state does: the next agent finds it by what is in the backend's directory.
    """

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

    def load(self, directory: Path) -> None:
        """Read what it keeps in its directory, or make it. Called before all else if it keeps state. Raises StateError."""

    def pod_mtu(self, node: LocalNode) -> int:
        """The MTU of pods' devices, in bytes."""

    def lease_data(self, node: LocalNode) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """This node's `backendData` and `backendV6Data`, for its peers."""

    def exclusive_ids(self, spec: SubnetLeaseSpec) -> Iterator[tuple[Hashable, str]]:
        """What only one node can have of a lease's backend data, and how it is called (`VtepMAC, 02:…`)."""

    def check(self, node: LocalNode) -> None:
        """Raises BadConfig when this backend cannot work on this node."""

    def device(self, node: LocalNode) -> tuple[KernelObject, ...]:
        """The objects needed once per node."""

    def tunnel_ends(self, node: LocalNode) -> tuple[TunnelEnd, ...]:
        """Where this node takes tunnel packets."""

    def peer(self, node: LocalNode, lease: SubnetLease) -> PeerObjects:
        """The objects for one peer; families that either node lacks, or that have a problem, are left out."""


class KernelBackend:
    """What is the same for every backend that the kernel does alone: no state, no process."""

    keeps_state = False
    process: BackendProcess | None = None

    def load(self, directory: Path) -> None:
        """There is nothing to read."""

    def exclusive_ids(self, spec: SubnetLeaseSpec) -> Iterator[tuple[Hashable, str]]:
        """None."""
        yield from ()

    def tunnel_ends(self, node: LocalNode) -> tuple[TunnelEnd, ...]:
        """None."""
        return ()
