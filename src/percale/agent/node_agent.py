"""Wires one node together: store, kernel, peers, pods and health. Made and run by `main.py`.

    Store.watch ─ follow ─▶ Peers ─────────── "peer/LEASE" ──┐
        ▲                     ▲                              ▼           batches
        │ put                 │ local node               Reconciler ──────────────▶ kernel
   SubnetManager ── on_move ──┼──────────── "node/…" ─────────▲ │ underlay events     │
        ▲  (interface, lease) │                               │ ▼                     │
        └─────────────────────┼───────────────────────────────┼── read again ◀────────┘
                              ▼                               │
                     CniServer (MTU) ─── "pod/ID/IFNAME" ─────┘       http/server: /readyz /metrics /status

Start: network → interface → subnet → declare device, peers and pods → garbage-collect stale objects → wait until applied →
conflist → READY. It waits for a store or an interface that is unavailable, and keeps the kernel's state meanwhile. Shutdown
keeps all kernel state: the data path goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from percale.agent.config.loader import listen_ports, service_config
from percale.agent.config.settings import AgentConfig
from percale.agent.context import AgentContext
from percale.agent.informer import STORE, Change
from percale.agent.logging import LineLog
from percale.agent.network.backend_process import BackendSupervisor
from percale.agent.network.fastpath import Fastpath
from percale.agent.network.net_conf import configured_network, stored_network
from percale.agent.network.peers import Peers
from percale.agent.network.subnet_manager import SubnetManager
from percale.agent.network.tables import NetworkTables
from percale.agent.nft_table import SERVICE_BYTES, NodeTable, delete_service_table
from percale.agent.policy.controller import PolicyController
from percale.agent.policy.established_flows import established_flows
from percale.agent.reporter import NodeComponents, StatusReporter
from percale.agent.service.conntrack_cleanup import conntrack_cleaner
from percale.agent.service.host_ports import HostPorts
from percale.agent.service.proxier import ServiceProxier
from percale.agent.state import ADDRESSES, PODS, NodeState
from percale.backend.protocol import Backend, LocalNode
from percale.backend.registry import make_backend
from percale.backend.state_dir import load_state
from percale.cni import conflist
from percale.cni.attachments import exists
from percale.cni.records import Attachment, Records
from percale.cni.server import CniServer
from percale.errors import BadConfig, KernelError, StateError
from percale.event_loop import yield_every
from percale.ipam.address_pool import AddressPool
from percale.kernel import sysctl
from percale.kernel.nftables.text_table import TextTable
from percale.model.addresses import IPAddress
from percale.model.configmap import ConfigMap
from percale.model.ip_family import Family
from percale.model.meta import ObjectKey
from percale.model.netconf import NetworkConfig
from percale.model.pod import Pod as PodObject
from percale.model.subnet_lease import SubnetLease
from percale.render.network import fastpath
from percale.render.network.base_chains import network_tables
from percale.render.network.fastpath import FastpathConfig, FastpathPod, FastpathRoute
from percale.render.network.masquerade import node_elements
from percale.render.network.pod_veth import PodNetwork, free_addresses
from percale.render.objects import Sysctl
from percale.render.service import base_chains as service_chains
from percale.render.service import host_ports
from percale.service import resolver
from percale.store.protocol import Deleted, Snapshot, Upserted

DEVICE, FORWARDING, SHORTCUT = "node/device", "node/forwarding", "node/shortcut"
OUTSIDE_SUBNET = "addresses of pods"
_YIELD_EVERY = 100
"""Peers rendered before the event loop gets a turn."""
_RETRY_INTERVAL = 0.1
"""Seconds until objects that the kernel rejected are checked again."""


class NodeAgent:
    """One per process; `run` until cancelled."""

    def __init__(self, config: AgentConfig, log: LineLog) -> None:
        """Raises StateError, KernelError, BadConfig."""
        self._config = config
        self._log = log
        self._state = NodeState(Path(config.stateDir))
        self._context = context = AgentContext(config, log, on_rejected=self._rejected)
        self._problems, self._metrics, self._store = context.problems, context.metrics, context.store
        self._reconciler = context.reconciler
        self._reporter = StatusReporter(config.node, self._metrics, self._problems, self._reconciler)
        self._configured = configured_network(config)
        self._config_maps = context.informer.subscribe(ConfigMap) if self._configured is None else None
        self._leases = context.informer.subscribe(SubnetLease)
        self._services = context.informer.subscribe(*resolver.KINDS)
        self._store_synced = asyncio.Event()
        records = self._records = Records(Path(config.stateDir) / PODS)
        self._table = NodeTable(context.nft_table(host_ports.TABLE_SPEC), context.problems, context.events)
        self._conntrack_cleaner = conntrack_cleaner(context.problems, context.metrics)
        self._host_ports = HostPorts(
            self._table, records.attachments.values(), self._conntrack_cleaner, context.problems
        )
        for setting, address in listen_ports(config).items():
            self._host_ports.reserve(setting, [("TCP", address)])
        self._policy_controller = PolicyController(
            config.node,
            context.informer,
            self._table,
            problems=context.problems,
            attached=[(each.pod.key, _addresses(each)) for each in records.attachments.values() if each.pod],
            recheck=self._recheck,
            on_local_pods=self._table.request_sync,
        )
        self._fastpath = Fastpath(
            self._fastpath_config,
            TextTable(fastpath.TABLE, log_command=context.log_command, subscriptions=context.subscriptions),
            log=log,
            enabled=config.shortcut == "auto",
        )
        self._established = established_flows(
            config,
            self._policy_controller.evaluator,
            problems=context.problems,
            metrics=context.metrics,
            log=log,
            on_cut=self._fastpath.flush,
        )

    async def run(self) -> None:
        """Raises a PercaleError if the agent cannot go on."""
        async with self._context.running(self._reporter) as (exit_stack, tasks):
            exit_stack.callback(self._established.close)
            exit_stack.callback(self._conntrack_cleaner.close)
            tasks.create_task(self._policy_controller.run(), name="policies")
            tasks.create_task(self._established.run(), name="established flows")
            components = self._reporter.components = await self._assemble()
            services_attempted = asyncio.Event()
            if self._config.services.enabled:
                nft = self._context.nft_table(service_chains.TABLE_SPEC, most_bytes=SERVICE_BYTES)
                table = NodeTable(nft, self._problems, self._context.events, service_chains.TABLE)
                services_attempted = table.attempted
                proxier = ServiceProxier(
                    service_config(self._config, components.network),
                    self._services,
                    table,
                    flows=self._conntrack_cleaner,
                    problems=self._problems,
                    events=self._context.events,
                    registry=self._metrics.registry,
                    count_interval=self._config.services.leastConnInterval,
                    local_pods=lambda: self._policy_controller.local_pods,
                    on_health_check_ports=lambda ports: self._host_ports.reserve(
                        "a health check", (("TCP", port) for port in ports)
                    ),
                )
                self._host_ports.set_service_endpoints(proxier.serving)
                tasks.create_task(proxier.run(), name="services")
                tasks.create_task(table.run(), name="service table")
                if (at := self._config.services.healthz) is not None:
                    tasks.create_task(proxier.health.serve(at), name="healthz")
            else:
                await delete_service_table()
                services_attempted.set()
            tasks.create_task(self._conntrack_cleaner.run(), name="flows")
            tasks.create_task(self._table.run(), name="table")
            tasks.create_task(self._fastpath.run(), name="shortcut")
            tasks.create_task(self._leases.run(self._lease_event), name="leases")
            tasks.create_task(components.subnet_manager.follow_underlay(self._on_underlay_change), name="underlay")
            tasks.create_task(components.subnet_manager.publish(), name="publish")
            if components.backend_supervisor is not None:
                tasks.create_task(components.backend_supervisor.run(), name="backend")
            tasks.create_task(components.subnet_manager.renew(), name="renew")
            await self._serve_pods(components, services_attempted, exit_stack, tasks)

    # Startup

    async def _network(self) -> NetworkConfig:
        if self._config_maps is None:
            assert self._configured is not None
            return self._configured
        network = await stored_network(self._config_maps, self._problems)
        self._context.informer.unsubscribe(self._config_maps)
        return network

    async def _assemble(self) -> NodeComponents:
        """Wait for network, interface and subnet."""
        config, log = self._config, self._log
        network = await self._network()
        backend = make_backend(network)
        state_dir = Path(config.stateDir)
        await load_state(backend, state_dir)
        subnet_manager = SubnetManager(
            config,
            network=network,
            backend=backend,
            store=self._store,
            reconciler=self._reconciler,
            problems=self._problems,
            log=log,
        )
        await subnet_manager.acquire(self._state)
        pool = AddressPool(state_dir / ADDRESSES, config.node, subnet_manager.subnets)
        tables = NetworkTables(
            network_tables(subnet_manager.subnets), self._problems, self._context.events, self._context.nft_table
        )
        peers = Peers(subnet_manager.local, backend, self._reconciler.declare, tables.declare, log)
        cni = CniServer(
            Path(config.cni.socket),
            network=self._pod_network(backend, subnet_manager),
            reconciler=self._reconciler,
            guards=tables,
            pool=pool,
            records=self._records,
            annotations=self._annotations,
            ready=self._reporter.unready,
            log=log,
            hooks=(self._policy_controller, self._host_ports),
            log_command=self._context.log_command,
            measure=self._cni_answered,
        )
        supervisor = None
        if backend.process is not None:
            supervisor = BackendSupervisor(
                backend.process, lambda: subnet_manager.local, lambda: peers.leases, self._problems
            )
        return NodeComponents(network, backend, supervisor, subnet_manager, tables, peers, pool, self._records, cni)

    async def _serve_pods(
        self,
        components: NodeComponents,
        services_attempted: asyncio.Event,
        exit_stack: AsyncExitStack,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Declare all desired state, garbage-collect stale objects, then accept CNI requests.

        Services that the kernel rejects block nothing: `services_attempted` is set after the first attempt.
        """
        self._declare_node(components, components.subnet_manager.local)
        tasks.create_task(components.tables.run(), name="network tables")
        try:
            await components.cni.start()
        except OSError as error:
            raise StateError(f"cannot listen: {error.strerror}", where=self._config.cni.socket) from error
        exit_stack.push_async_callback(components.cni.stop)
        components.tables.start()
        self._check_pod_addresses()
        tasks.create_task(self._collect_garbage(), name="garbage collection")
        await self._store_synced.wait()
        await self._reconciler.wait_idle()
        for source in (DEVICE, FORWARDING):
            await self._wait_applied(source)
        await components.tables.wait_loaded()
        await self._table.applied.wait()
        await services_attempted.wait()
        await self._recheck(None)  # a previous run may have ended between its commit and the cuts that followed from it
        self._reporter.ready.set()
        conflist.install(self._config.cni)
        self._context.announce_ready(self._reporter)

    async def _collect_garbage(self) -> None:
        """Starts once all peers are known: not while a file that may contain their leases cannot be read."""
        await self._store_synced.wait()
        await self._problems.wait_clear(STORE)
        self._reconciler.start_garbage_collection()
        assert self._reporter.components is not None
        self._reporter.components.tables.start_garbage_collection()

    async def _wait_applied(self, source: str) -> None:
        """The reconciler retries by itself; what the kernel rejects is in the status."""
        while True:
            try:
                return await self._reconciler.wait_applied(source)
            except KernelError:
                await asyncio.sleep(_RETRY_INTERVAL)

    # Events

    async def _lease_event(self, event: Change) -> None:
        """A lease was created, changed or deleted."""
        assert self._reporter.components is not None
        self._metrics.store_events.labels(type(event).__name__.lower()).inc()
        peers, subnet_manager = self._reporter.components.peers, self._reporter.components.subnet_manager
        mine = subnet_manager.lease.lease.key
        match event:
            case Snapshot():
                leases = event.of(SubnetLease)
                await _run(peers.replace(leases))
                if all(lease.key != mine for lease in leases):
                    subnet_manager.lease_lost()
                self._store_synced.set()
            case Upserted(object=SubnetLease() as lease):
                peers.put(lease)
            case Deleted(object=SubnetLease() as lease):
                peers.remove(lease)
                if lease.key == mine:
                    subnet_manager.lease_lost()
        self._peers_changed(self._reporter.components)

    async def _on_underlay_change(self, local: LocalNode) -> None:
        """Another interface, address or MTU."""
        assert self._reporter.components is not None
        components = self._reporter.components
        self._declare_node(components, local)
        components.cni.network = self._pod_network(components.backend, components.subnet_manager)
        await _run(components.peers.update_local(local))
        self._peers_changed(components)

    def _peers_changed(self, components: NodeComponents) -> None:
        self._fastpath.request_sync()
        if components.backend_supervisor is not None:
            components.backend_supervisor.request_sync()

    def _declare_node(self, components: NodeComponents, local: LocalNode) -> None:
        backend, subnets = components.backend, components.subnet_manager.subnets
        tunnels = backend.tunnel_ends(local)
        self._reconciler.declare(DEVICE, (*backend.device(local), *free_addresses(subnets)))
        self._host_ports.reserve("its tunnel", (("UDP", end.port) for end in tunnels))
        elements = node_elements(components.network.networks, subnets, tunnels, masquerade=self._config.ipMasq)
        components.tables.declare("node", elements)
        if self._config.shortcut == "auto":
            # Conntrack does not see the fast path's packets: the next one on the slow path must not count as out of window.
            self._reconciler.declare(SHORTCUT, (Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),))
        self._reconciler.declare(FORWARDING, _forwarding(local))

    def _pod_network(self, backend: Backend, subnet_manager: SubnetManager) -> PodNetwork:
        cni = self._config.cni
        return PodNetwork(subnet_manager.subnets, backend.pod_mtu(subnet_manager.local), cni.wiring, cni.bridge)

    def _cni_answered(self, verb: str, code: int, seconds: float) -> None:
        self._metrics.cni_answered(verb, code, seconds)
        if verb in ("ADD", "DEL", "GC"):
            self._fastpath.request_sync()
        if OUTSIDE_SUBNET in self._problems.current:
            self._check_pod_addresses()

    def _check_pod_addresses(self) -> None:
        """Pods that are older than this node's subnets: they exist at the start or never."""
        assert self._reporter.components is not None
        subnets = tuple(self._reporter.components.subnet_manager.subnets)
        pods_outside_subnet = [
            each
            for each in self._records.attachments.values()
            if not each.chained and not all(any(ip in subnet for subnet in subnets) for ip in _addresses(each))
        ]
        if pods_outside_subnet:
            what = (
                f"{pods_outside_subnet[0]} has an address of another network than the node's, where no peer reaches it"
            )
            more = f" (and {len(pods_outside_subnet) - 1} more)" if pods_outside_subnet[1:] else ""
            self._problems.raise_(OUTSIDE_SUBNET, BadConfig(what + more, hint="delete the pod and make it anew"))
        else:
            self._problems.clear(OUTSIDE_SUBNET)

    def _fastpath_config(self) -> FastpathConfig:
        """The current routed pods of this node and the routes to the others'."""
        components = self._reporter.components
        assert components is not None
        wires = [each.wires for each in self._records.attachments.values() if not each.chained]
        return FastpathConfig(
            tuple(
                FastpathPod(each.device, tuple(address.ip for address in each.addresses))
                for each in wires
                if each.bridge is None and exists(each.device)
            ),
            tuple(
                FastpathRoute(route.dst, route.via, route.dev)
                for route in components.peers.routes
                if route.via is not None and route.dev is not None and exists(route.dev)
            ),
            components.backend.pod_mtu(components.subnet_manager.local),
        )

    def _rejected(self, source: str, error: KernelError) -> None:
        """The kernel rejected an object; the reconciler retries."""
        self._problems.record(f"kernel {source}", error)
        if self._reporter.components is not None:
            self._reporter.components.cni.heal(source)

    async def _recheck(self, addresses: frozenset[bytes] | None) -> None:
        """The kernel's rules are others now: established_flows connections are judged by them too."""
        await self._established.recheck(addresses)

    async def _annotations(self, namespace: str, name: str) -> Mapping[str, str]:
        pod = await self._context.informer.get(PodObject, ObjectKey(namespace, name))
        return pod.metadata.annotations if pod is not None else {}


def _addresses(attachment: Attachment) -> tuple[IPAddress, ...]:
    return tuple(each.ip for each in attachment.wires.addresses)


async def _run(steps: Iterable[None]) -> None:
    """Run long work on the event loop, yielding to other tasks in between."""
    async for _ in yield_every(_YIELD_EVERY, steps):
        pass


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
