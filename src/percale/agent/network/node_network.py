"""A node's own pod network, made once its subnet is known: device, peers, guards, pods. Made by `own_networking.py`.

 leases ─▶ Peers ───────────────────────── "peer/LEASE" ──┐
             ▲ local node                                 ▼           batches
SubnetManager ── on_move ──────────────── "node/…" ──▶ Reconciler ──────────────▶ kernel
     ▲  (interface, lease)                                ▲ │ underlay events
     └────────────────────────────────────────────────────┼─┘
                  CniServer (MTU) ─── "pod/ID/IFNAME" ────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from percale.agent.context import AgentContext
from percale.agent.informer import STORE, Change, Subscription
from percale.agent.network.backend_supervisor import BackendSupervisor
from percale.agent.network.backend_transition import BackendTransition
from percale.agent.network.fastpath import Fastpath
from percale.agent.network.ip_pools import NodePools
from percale.agent.network.key_renewal import KeyRenewal
from percale.agent.network.network_tables import NetworkTables
from percale.agent.network.peer_probes import PeerProbes
from percale.agent.network.peers import Peers
from percale.agent.network.subnet_file import write_subnet_file
from percale.agent.network.subnet_manager import SubnetManager
from percale.agent.reporter import NetworkStatus
from percale.agent.service.host_ports import HostPorts
from percale.agent.state import ADDRESSES, NodeState
from percale.agent.status import Addresses, Pod
from percale.backend.protocol import Backend, LocalNode
from percale.backend.transition import Transition
from percale.cni.attachments import device_exists
from percale.cni.hooks import PodHook
from percale.cni.operations import Unready
from percale.cni.records import Records
from percale.cni.server import CniServer
from percale.counted import counted
from percale.errors import BadConfig, KernelError, StateError
from percale.event_loop import yield_every
from percale.ipam.address_pool import AddressPool, PodOf
from percale.kernel import sysctl
from percale.model.addresses import IPNetwork
from percale.model.ip_family import Family
from percale.model.meta import ObjectKey
from percale.model.netconf import NetworkConfig
from percale.model.pod import Pod as PodObject
from percale.model.subnet_env import subnet_env
from percale.model.subnet_lease import SubnetLease
from percale.render.network.base_chains import network_tables
from percale.render.network.fastpath import FastpathConfig, FastpathPod, FastpathRoute
from percale.render.network.node_elements import node_elements
from percale.render.network.pod_veth import PodDefaults, unreachable_subnets
from percale.render.objects import Sysctl
from percale.store.protocol import Deleted, Snapshot, Upserted

if TYPE_CHECKING:
    from percale.agent.network.bgp import NodeBgp
    from percale.backend.bgp.bird_process import BirdProcess

DEVICE, FORWARDING, SHORTCUT = "node/device", "node/forwarding", "node/shortcut"
OUTSIDE_SUBNET = "addresses of pods"
_YIELD_EVERY = 100
"""Peers rendered before the event loop gets a turn."""
_RETRY_INTERVAL = 0.1
"""Seconds until objects that the kernel rejected are checked again."""


class NodeNetwork:
    """A `StatusSource`. All methods are called on the event loop."""

    def __init__(
        self,
        context: AgentContext,
        network: NetworkConfig,
        backend: Backend,
        *,
        subnets: SubnetManager,
        records: Records,
        host_ports: HostPorts,
        fastpath: Fastpath,
        hooks: Sequence[PodHook],
        pod_of: PodOf,
        ready: Callable[[], Unready | None],
        state: NodeState,
        pool_changes: Subscription | None,
    ) -> None:
        """`hooks` are called at each pod's ADD and DEL; `pool_changes` are those of IP pools. Raises StateError."""
        config = context.config
        self._config = config
        self._problems, self._metrics, self._events = context.problems, context.metrics, context.events
        self._informer, self._reconciler, self._log = context.informer, context.reconciler, context.log
        self._network = network
        self._backend = backend
        self._subnets = subnets
        self._records = records
        self._host_ports = host_ports
        self._fastpath = fastpath
        self._leases_synced = asyncio.Event()
        blocks = state.blocks if pool_changes is not None else ()
        self._pool = AddressPool(Path(config.stateDir) / ADDRESSES, config.node, subnets.subnets, blocks)
        self._tables = NetworkTables(
            network_tables(subnets.subnets), context.problems, context.events, context.nft_table
        )
        self._probes = PeerProbes(context.log)
        self._peers = Peers(
            subnets.local,
            backend,
            network.networks,
            context.reconciler.declare,
            self._tables.declare,
            set_targets=self._probes.set_targets,
            log=context.log,
            problems=context.problems,
        )
        self._probes.on_silent = self._peers.set_silent
        self._pool_changes = pool_changes
        self._pools = (
            NodePools(
                context,
                network,
                state,
                self._pool,
                leased=self._leased,
                on_own=self._on_own_blocks,
                on_peer=self._on_peer_blocks,
            )
            if pool_changes is not None
            else None
        )
        self._cni = CniServer(
            Path(config.cni.socket),
            defaults=self._pod_defaults(),
            reconciler=context.reconciler,
            guards=self._tables,
            pool=self._pool,
            records=records,
            annotations=self._annotations,
            allocate=self._pools.allocate if self._pools is not None else None,
            pod_of=pod_of,
            ready=ready,
            log=context.log,
            hooks=hooks,
            log_command=context.log_command,
            measure=self._cni_answered,
        )
        self._bgp = self._bgp_of(backend.bgp, context) if backend.bgp is not None else None
        self._transition = (
            BackendTransition(backend, lambda: subnets.local, state, context.log, subnets.republish)
            if isinstance(backend, Transition)
            else None
        )
        self._supervisor = (
            BackendSupervisor(
                backend.process,
                lambda: subnets.local,
                lambda: self._peers.leases,
                context.problems,
                on_checked=self._bgp.on_configured if self._bgp is not None else lambda: None,
            )
            if backend.process is not None
            else None
        )
        context.on_rejected(self._cni.heal)
        context.informer.on_lack(
            SubnetLease, subnets.lease_lost
        )  # a store that lost all leases gets ours again at once

    def _bgp_of(self, daemon: BirdProcess, context: AgentContext) -> NodeBgp:
        from percale.agent.network.bgp import NodeBgp  # noqa: PLC0415 -- most backends have none

        return NodeBgp(
            context,
            daemon,
            self._network.networks,
            self._own,
            peers=self._peers,
            declare_elements=self._tables.declare,
            reserve_ports=partial(self._host_ports.reserve, "a BGP session"),
            request_sync=self._on_peers_changed,
            on_routes=self._fastpath.request_sync,
        )

    async def start(self, exit_stack: AsyncExitStack, tasks: asyncio.TaskGroup, leases: Subscription) -> None:
        """Declare all desired state, accept CNI requests, then garbage-collect stale objects. Raises StateError, KernelError."""
        tasks.create_task(leases.run(self._on_lease), name="leases")
        tasks.create_task(self._subnets.follow_underlay(self._on_underlay_change), name="underlay")
        tasks.create_task(self._subnets.publish(), name="publish")
        tasks.create_task(self._subnets.renew(), name="renew")
        if self._supervisor is not None:
            tasks.create_task(self._run_process(self._supervisor), name="backend")
        if self._bgp is not None:
            self._bgp.start(exit_stack, tasks)
        if (renew := self._backend.key_renewal) is not None:
            renewal = KeyRenewal(renew, self._on_key_renewed, log=self._log, problems=self._problems)
            tasks.create_task(renewal.run(), name="wireguard key")
        if self._pools is not None and self._pool_changes is not None:
            tasks.create_task(self._pools.run(self._pool_changes), name="ip pools")
        if self._config.probePeers:
            tasks.create_task(self._probes.run(), name="probes")
        self._declare_node(self._subnets.local)
        tasks.create_task(self._tables.run(), name="network tables")
        try:
            await self._cni.start()
        except OSError as error:
            raise StateError(f"cannot listen: {error.strerror}", where=self._config.cni.socket) from error
        exit_stack.push_async_callback(self._cni.stop)
        tasks.create_task(self._tables.start_after(self._leases_synced), name="loading of network tables")
        self._check_pod_addresses()
        tasks.create_task(self._collect_garbage(), name="garbage collection")

    async def wait_applied(self) -> None:
        """Wait until the kernel holds the node's objects and tables, and those of all peers were tried."""
        await self._leases_synced.wait()
        if self._pools is not None:
            await self._pools.synced.wait()
        await self._reconciler.wait_idle()
        for source in (DEVICE, FORWARDING):
            await self._wait_applied(source)
        await self._tables.wait_loaded()

    async def _run_process(self, supervisor: BackendSupervisor) -> None:
        """Starts once all peers are known: one that outlives the last agent must not lose those that are not read yet."""
        await self._leases_synced.wait()
        await supervisor.run()

    async def _collect_garbage(self) -> None:
        """Starts once all peers are known: not while a file that may contain their leases cannot be read."""
        await self._leases_synced.wait()
        if self._pools is not None:
            await self._pools.synced.wait()
        await self._problems.wait_clear(STORE)
        self._reconciler.start_garbage_collection()
        self._tables.start_garbage_collection()

    async def _wait_applied(self, source: str) -> None:
        """The reconciler retries by itself; what the kernel rejects is in the status."""
        while True:
            try:
                return await self._reconciler.wait_applied(source)
            except KernelError:
                await asyncio.sleep(_RETRY_INTERVAL)

    # Events

    async def _on_lease(self, event: Change) -> None:
        """A lease was created, changed or deleted."""
        self._metrics.store_events.labels(type(event).__name__.lower()).inc()
        mine = self._subnets.lease.lease.key
        match event:
            case Snapshot():
                leases = event.of(SubnetLease)
                await _run(self._peers.replace(leases))
                if all(lease.key != mine for lease in leases):
                    self._subnets.lease_lost()
                self._leases_synced.set()
            case Upserted(object=SubnetLease() as lease):
                self._peers.put(lease)
            case Deleted(object=SubnetLease() as lease):
                self._peers.remove(lease)
                if lease.key == mine:
                    self._subnets.lease_lost()
        if self._transition is not None:
            self._transition.on_lease(event)
        self._on_peers_changed()

    async def _on_underlay_change(self, local: LocalNode) -> None:
        """Another interface, address or MTU."""
        self._declare_node(local)
        self._cni.defaults = self._pod_defaults()
        await _run(self._peers.update_local(local))
        self._on_peers_changed()

    async def _on_key_renewed(self) -> None:
        self._declare_node(self._subnets.local)
        await self._wait_applied(DEVICE)
        self._subnets.republish()

    def _own(self) -> tuple[IPNetwork, ...]:
        """This node's subnets and blocks of IP pools."""
        return (*self._subnets.subnets, *self._pool.blocks)

    def _leased(self) -> Iterator[IPNetwork]:
        """All nodes' subnets."""
        yield from self._subnets.subnets
        for lease in self._peers.leases:
            yield from lease.spec.subnets

    def _on_own_blocks(self) -> None:
        self._declare_node(self._subnets.local)
        if self._bgp is not None:
            self._bgp.update()

    def _on_peer_blocks(self, node: str, blocks: tuple[IPNetwork, ...]) -> None:
        self._peers.set_blocks(node, blocks)
        self._on_peers_changed()

    def _on_peers_changed(self) -> None:
        self._fastpath.request_sync()
        if self._supervisor is not None:
            self._supervisor.request_sync()

    def _declare_node(self, local: LocalNode) -> None:
        tunnels = self._backend.tunnel_ends(local)
        self._reconciler.declare(DEVICE, (*self._backend.device(local), *unreachable_subnets(self._own())))
        self._host_ports.reserve("its tunnel", (("UDP", end.port) for end in tunnels if end.port is not None))
        self._host_ports.reserve("BGP", self._backend.session_ports)
        elements = node_elements(
            self._network.networks,
            self._own(),
            tunnels,
            self._backend.session_ports,
            masquerade=self._config.ipMasq,
            unmasqueraded=self._pools.without_nat if self._pools is not None else (),
        )
        self._tables.declare("node", elements)
        if self._config.shortcut == "auto":
            # Conntrack does not see the fast path's packets: the next one on the slow path must not count as out of window.
            self._reconciler.declare(SHORTCUT, (Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),))
        self._reconciler.declare(FORWARDING, _forwarding(local))
        if (file := self._config.subnetFile) is not None:
            mtu, subnets = self._backend.pod_mtu(local), self._subnets.subnets
            text = subnet_env(self._network.networks, subnets, mtu, ip_masq=self._config.ipMasq)
            write_subnet_file(Path(file), text, self._problems)

    def _pod_defaults(self) -> PodDefaults:
        cni = self._config.cni
        local = self._subnets.local
        return PodDefaults(
            local.subnets, self._backend.pod_mtu(local), cni.wiring, cni.bridge, local.macs.get(cni.bridge)
        )

    def _cni_answered(self, verb: str, code: int, seconds: float) -> None:
        self._metrics.cni_answered(verb, code, seconds)
        if verb in ("ADD", "DEL", "GC"):
            self._fastpath.request_sync()
        if verb == "ADD" and code:
            self._warn_if_full()
        if OUTSIDE_SUBNET in self._problems.current:
            self._check_pod_addresses()

    def _warn_if_full(self) -> None:
        for each in self.addresses():
            if not each.free:
                what = f"all {each.used} addresses of {each.subnet} are used: no further pod can start on this node"
                self._events.warn_node("SubnetFull", what)

    def _check_pod_addresses(self) -> None:
        """Pods that are older than this node's subnets: they exist at the start or never."""
        subnets = self._own()
        outside = [
            each
            for each in self._records.attachments.values()
            if not each.chained and not all(any(ip in subnet for subnet in subnets) for ip in each.wires.ips)
        ]
        if outside:
            what = f"{outside[0]} has an address of another network than the node's, where no peer reaches it"
            more = f" (and {len(outside) - 1} more)" if outside[1:] else ""
            self._problems.raise_(OUTSIDE_SUBNET, BadConfig(what + more, hint="delete and recreate the pod"))
        else:
            self._problems.clear(OUTSIDE_SUBNET)

    def fastpath_config(self) -> FastpathConfig:
        """The current routed pods of this node and the routes to the others'."""
        wires = [each.wires for each in self._records.attachments.values() if not each.chained]
        return FastpathConfig(
            tuple(
                FastpathPod(each.device, each.ips)
                for each in wires
                if each.bridge is None and device_exists(each.device)
            ),
            tuple(
                FastpathRoute(route.dst, route.via, route.dev)
                for route in self._peers.routes
                if route.via is not None and route.dev is not None and device_exists(route.dev)
            ),
            self._backend.pod_mtu(self._subnets.local),
        )

    async def _annotations(self, namespace: str, name: str) -> Mapping[str, str]:
        pod = await self._informer.get(PodObject, ObjectKey(namespace, name))
        return pod.metadata.annotations if pod is not None else {}

    # Status

    def summary(self) -> str:
        """`10.244.1.0/24, 2 peers, 3 pods`."""
        return f"{self._subnets.subnets}, {counted(len(self._peers), 'peer')}, {counted(self.pod_count(), 'pod')}"

    def network_status(self) -> NetworkStatus:
        """For /status."""
        local = self._subnets.local
        return NetworkStatus(
            backend=self._backend.type,
            otherBackend=self._transition.status() if self._transition is not None else None,
            mtu=self._cni.defaults.mtu,
            interface=local.interface.name,
            publicIPs=_texts(local.public_ips),
            networks=_texts(self._network.networks),
            subnets=_texts(self._subnets.subnets),
            addresses=self.addresses(),
            peers=self._peers.status(),
            bgp=self._bgp.status() if self._bgp is not None else None,
            pods=tuple(
                Pod(
                    container=owner.container,
                    ifname=owner.ifname,
                    addresses=_texts(each.wires.ips),
                    pod=str(each.pod) if each.pod is not None else None,
                )
                for owner, each in sorted(self._records.attachments.items())
            ),
        )

    def peer_counts(self) -> tuple[int, int]:
        """Reachable and unreachable peers."""
        return self._peers.reached, len(self._peers) - self._peers.reached

    def pod_count(self) -> int:
        """Attachments of this node."""
        return len(self._records.attachments)

    def addresses(self) -> tuple[Addresses, ...]:
        """Usage of this node's subnets and blocks."""
        used = [address for allocation in self._pool.allocations.values() for address in allocation.addresses]
        found = []
        for subnet in self._own():
            count = sum(address in subnet for address in used)
            found.append(Addresses(str(subnet), count, self._pool.capacity(subnet) - count))
        return tuple(found)


async def _run(steps: Iterable[None]) -> None:
    """Run long work on the event loop, yielding to other tasks in between."""
    async for _ in yield_every(_YIELD_EVERY, steps):
        pass


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values if value is not None)


def _forwarding(local: LocalNode) -> Iterator[Sysctl]:
    """Sysctls of a router. With IPv6 forwarding the kernel ignores router advertisements unless accept_ra is 2."""
    if Family.IPV4 in local.families:
        yield Sysctl("net/ipv4/ip_forward", "1")
    if (ipv6 := local.families.get(Family.IPV6)) is not None:
        advertised = f"net/ipv6/conf/{ipv6.interface.name}/accept_ra"
        with suppress(OSError):  # no IPv6 in this kernel: the reconciler reports the next sysctl
            if sysctl.read(advertised) == "1":
                yield Sysctl(advertised, "2")
        yield Sysctl("net/ipv6/conf/all/forwarding", "1")
