"""One node: store, kernel, peers, pods and health, wired together. Made and run by `running.py`.

    Store.watch ─ follow ─▶ Peers ─────────── "peer/LEASE" ──┐
        ▲                     ▲                              ▼           batches
        │ put                 │ local node               Reconciler ──────────────▶ kernel
     Standing ── on_move ─────┼──────────── "node/…" ─────────▲ │ underlay events     │
        ▲  (interface, lease) │                               │ ▼                     │
        └─────────────────────┼───────────────────────────────┼── read again ◀────────┘
                              ▼                               │
                     CniServer (MTU) ─── "pod/ID/IFNAME" ─────┘       serving: /readyz /metrics /status

Start: network → interface → subnet → device, peers and pods wished → leftovers removed → all of it in the kernel → conflist →
READY. A store or an interface that is away is waited for; what was in force stays in force meanwhile. The end takes
nothing back: the kernel goes on carrying packets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from percale.agent.balancing import Balancing
from percale.agent.config import AgentConfig
from percale.agent.configuring import listening_at, service_config
from percale.agent.cutting import established
from percale.agent.enforcing import Enforcement
from percale.agent.following import STORE, follow
from percale.agent.ground import Ground
from percale.agent.host_ports import HostPorts
from percale.agent.logging import LineLog
from percale.agent.network import configured_network
from percale.agent.peers import Peers
from percale.agent.reporting import Parts, Report
from percale.agent.service_flows import service_flows
from percale.agent.shortcutting import Shortcut
from percale.agent.standing import Standing
from percale.agent.state import ADDRESSES, PODS, NodeState
from percale.agent.table import NodeTable, keeper, service_keeper, without_services
from percale.backend.protocol import Backend, LocalNode
from percale.backend.registry import make_backend
from percale.cni import conflist
from percale.cni.attaching import exists
from percale.cni.records import Attachment, Records
from percale.cni.serving import CniServer
from percale.errors import BadConfig, KernelError, StateError
from percale.ipam.addresses import AddressPool
from percale.kernel import sysctl
from percale.kernel.protocol import SHORTCUT_TABLE
from percale.model.lease import SubnetLease
from percale.model.meta import ObjectKey
from percale.model.pod import Pod as PodObject
from percale.render import balancing as balancing_text
from percale.render.masquerade import node_tables
from percale.render.objects import IPAddress, Sysctl
from percale.render.shortcut import Shortcuts, Way, Wire
from percale.render.tunnels import tunnels_of
from percale.render.wiring import PodNetwork, free_addresses
from percale.store.protocol import Deleted, Snapshot, Upserted

DEVICE, TABLES, FORWARDING, SHORTCUT = "node/device", "node/tables", "node/forwarding", "node/shortcut"
STRAYS = "addresses of pods"
_BREATH = 100
"""Peers rendered between two breaths of the event loop."""
_SETTLING = 0.1
"""Seconds between looks at objects that the kernel refuses."""


class AgentNode:
    """Made once per process; `run` lives until it is cancelled."""

    def __init__(self, config: AgentConfig, log: LineLog) -> None:
        """Raises StateError, KernelError, BadConfig."""
        self._config = config
        self._log = log
        self._state = NodeState(Path(config.stateDir))
        self._ground = ground = Ground(config, log, on_refused=self._refused)
        self._troubles, self._metrics, self._store = ground.troubles, ground.metrics, ground.store
        self._reconciler = ground.reconciler
        self._report = Report(config.node, self._metrics, self._troubles, self._reconciler)
        self._store_read = asyncio.Event()
        records = self._records = Records(Path(config.stateDir) / PODS)
        kept = keeper(host_ports=True, narrate=ground.narrate, hearing=ground.hearing)
        self._table = NodeTable(kept, ground.troubles, ground.events)
        self._flows = service_flows(ground.troubles, ground.metrics)
        self._host_ports = HostPorts(self._table, records.attachments.values(), self._flows, ground.troubles)
        for setting, address in listening_at(config).items():
            self._host_ports.keep(setting, [("TCP", address)])
        self._enforcement = Enforcement(
            config.node,
            ground.store,
            self._table,
            troubles=ground.troubles,
            attached=[(each.pod.key, _addresses(each)) for each in records.attachments.values() if each.pod],
            reconsider=self._reconsider,
            on_local_pods=self._table.touch,
        )
        self._shortcut = Shortcut(self._shortcuts, narrate=ground.narrate, log=log, enabled=config.shortcut == "auto")
        self._reconciler.on_absent(SHORTCUT_TABLE, self._shortcut.reload)
        self._established = established(
            config,
            self._enforcement.evaluator,
            troubles=ground.troubles,
            metrics=ground.metrics,
            log=log,
            on_cut=self._shortcut.forget,
        )

    async def run(self) -> None:
        """Raises the PercaleError that makes going on impossible."""
        async with self._ground.up(self._report) as (downs, duties):
            downs.callback(self._established.close)
            downs.callback(self._flows.close)
            duties.create_task(self._enforcement.run(), name="policies")
            duties.create_task(self._established.run(), name="established")
            parts = self._report.parts = await self._assemble()
            served = asyncio.Event()
            if self._config.services.enabled:
                kept = service_keeper(narrate=self._ground.narrate, hearing=self._ground.hearing)
                table = NodeTable(kept, self._troubles, self._ground.events, balancing_text.TABLE)
                served = table.attempted
                balancing = Balancing(
                    service_config(self._config, parts.network),
                    self._store,
                    table,
                    flows=self._flows,
                    troubles=self._troubles,
                    events=self._ground.events,
                    registry=self._metrics.registry,
                    count_every=self._config.services.leastConnInterval,
                    local_pods=lambda: self._enforcement.local_pods,
                    checked=lambda ports: self._host_ports.keep("a health check", (("TCP", port) for port in ports)),
                )
                self._host_ports.come_after(balancing.serving)
                duties.create_task(balancing.run(), name="services")
                duties.create_task(table.run(), name="service table")
                if (at := self._config.services.healthz) is not None:
                    duties.create_task(balancing.health.serve(at), name="healthz")
            else:
                await without_services()
                served.set()
            duties.create_task(self._flows.run(), name="flows")
            duties.create_task(self._table.run(), name="table")
            duties.create_task(self._shortcut.run(), name="shortcut")
            duties.create_task(follow(self._store, (SubnetLease,), self._lease_event, self._troubles), name="leases")
            duties.create_task(parts.standing.follow_underlay(self._moved), name="underlay")
            duties.create_task(parts.standing.publish(), name="publish")
            duties.create_task(parts.standing.keep(), name="keep")
            await self._serve_pods(parts, served, downs, duties)

    # The start

    async def _assemble(self) -> Parts:
        """Wait for network, interface and subnet."""
        config, log = self._config, self._log
        network = await configured_network(config, self._store, self._troubles)
        backend = make_backend(network)
        standing = Standing(
            config,
            network=network,
            backend=backend,
            store=self._store,
            reconciler=self._reconciler,
            troubles=self._troubles,
            log=log,
        )
        await standing.establish(self._state)
        state_dir = Path(config.stateDir)
        pool = AddressPool(state_dir / ADDRESSES, config.node, standing.subnets)
        peers = Peers(standing.local, backend, self._reconciler.want, log)
        cni = CniServer(
            Path(config.cni.socket),
            network=self._pod_network(backend, standing),
            reconciler=self._reconciler,
            pool=pool,
            records=self._records,
            annotations=self._annotations,
            ready=self._report.unready,
            log=log,
            guard=self._enforcement,
            opener=self._host_ports,
            narrate=self._ground.narrate,
            measure=self._cni_answered,
        )
        return Parts(network, backend, standing, peers, pool, self._records, cni)

    async def _serve_pods(
        self, parts: Parts, served: asyncio.Event, downs: AsyncExitStack, duties: asyncio.TaskGroup
    ) -> None:
        """Everything is wished once; then leftovers go, and once the kernel has it all, pods are welcome.

        They do not wait for Services that the kernel refuses: `served` is set once these have been tried.
        """
        self._wish_node(parts, parts.standing.local)
        try:
            await parts.cni.start()
        except OSError as error:
            raise StateError(f"cannot listen: {error.strerror}", where=self._config.cni.socket) from error
        downs.push_async_callback(parts.cni.stop)
        self._tell_of_strays()
        duties.create_task(self._collect_leftovers(), name="leftovers")
        await self._store_read.wait()
        await self._reconciler.idle()
        for source in (DEVICE, TABLES, FORWARDING):
            await self._until_settled(source)
        await self._table.in_force.wait()
        await served.wait()
        await self._reconsider(None)  # a former life may have ended between its edit and its cuts
        self._report.ready.set()
        conflist.install(self._config.cni)
        self._ground.say_ready(self._report)

    async def _collect_leftovers(self) -> None:
        """Once it is known who the peers are: not while a file that may hold their leases cannot be read."""
        await self._store_read.wait()
        await self._troubles.without(STORE)
        self._reconciler.in_sync()

    async def _until_settled(self, source: str) -> None:
        """The reconciler tries again by itself; what it is refused is in the status."""
        while True:
            try:
                return await self._reconciler.settled(source)
            except KernelError:
                await asyncio.sleep(_SETTLING)

    # What happens

    async def _lease_event(self, event: Snapshot | Upserted | Deleted) -> None:
        """A lease came, changed or went."""
        assert self._report.parts is not None
        self._metrics.store_events.labels(type(event).__name__.lower()).inc()
        peers, standing = self._report.parts.peers, self._report.parts.standing
        mine = standing.lease.lease.key
        self._shortcut.touch()
        match event:
            case Snapshot():
                leases = [obj for obj in event.objects if isinstance(obj, SubnetLease)]
                await _breathing(peers.replace(leases))
                if all(lease.key != mine for lease in leases):
                    standing.lease_lost()
                self._store_read.set()
            case Upserted(object=SubnetLease() as lease):
                peers.put(lease)
            case Deleted(object=SubnetLease() as lease):
                peers.remove(lease)
                if lease.key == mine:
                    standing.lease_lost()

    async def _moved(self, local: LocalNode) -> None:
        """The underlay changed: another interface, address or MTU."""
        assert self._report.parts is not None
        parts = self._report.parts
        self._wish_node(parts, local)
        parts.cni.network = self._pod_network(parts.backend, parts.standing)
        await _breathing(parts.peers.move(local))
        self._shortcut.touch()

    def _wish_node(self, parts: Parts, local: LocalNode) -> None:
        device = tuple(parts.backend.device(local))
        self._reconciler.want(DEVICE, (*device, *free_addresses(parts.standing.subnets)))
        self._host_ports.keep("its tunnel", (("UDP", tunnel.port) for tunnel in tunnels_of(device)))
        tables = node_tables(parts.network.networks, parts.standing.subnets, device, masquerade=self._config.ipMasq)
        self._reconciler.want(TABLES, tables)
        if self._config.shortcut == "auto":
            # What the shortcut carries conntrack does not see: it must not take the next packet for one out of order.
            self._reconciler.want(SHORTCUT, (Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),))
        self._reconciler.want(FORWARDING, _forwarding(local))

    def _pod_network(self, backend: Backend, standing: Standing) -> PodNetwork:
        cni = self._config.cni
        return PodNetwork(standing.subnets, backend.pod_mtu(standing.local), cni.wiring, cni.bridge)

    def _cni_answered(self, verb: str, code: int, seconds: float) -> None:
        self._metrics.cni_answered(verb, code, seconds)
        if verb in ("ADD", "DEL", "GC"):
            self._shortcut.touch()
        if STRAYS in self._troubles.now:
            self._tell_of_strays()

    def _tell_of_strays(self) -> None:
        """Pods that are older than this node's subnets: there are some at the start or never."""
        assert self._report.parts is not None
        subnets = tuple(self._report.parts.standing.subnets)
        strays = [
            each
            for each in self._records.attachments.values()
            if not each.chained and not all(any(ip in subnet for subnet in subnets) for ip in _addresses(each))
        ]
        if strays:
            what = f"{strays[0]} has an address of another network than the node's, where no peer reaches it"
            more = f" (and {len(strays) - 1} more)" if strays[1:] else ""
            self._troubles.begin(STRAYS, BadConfig(what + more, hint="delete the pod and make it anew"))
        else:
            self._troubles.end(STRAYS)

    def _shortcuts(self) -> Shortcuts:
        """This node's routed pods and the ways to the others' as of now."""
        parts = self._report.parts
        assert parts is not None
        wires = [each.wires for each in self._records.attachments.values() if not each.chained]
        return Shortcuts(
            tuple(
                Wire(each.device, tuple(address.ip for address in each.addresses))
                for each in wires
                if each.bridge is None and exists(each.device)
            ),
            tuple(
                Way(route.dst, route.via, route.dev)
                for route in parts.peers.routes
                if route.via is not None and route.dev is not None and exists(route.dev)
            ),
            parts.backend.pod_mtu(parts.standing.local),
        )

    def _refused(self, source: str, error: KernelError) -> None:
        """The kernel refused an object; it is tried again."""
        self._troubles.note(f"kernel {source}", error)
        if self._report.parts is not None:
            self._report.parts.cni.heal(source)

    async def _reconsider(self, addresses: frozenset[bytes] | None) -> None:
        """The kernel's rules are others now: established connections are judged by them too."""
        await self._established.reconsider(addresses)

    async def _annotations(self, namespace: str, name: str) -> Mapping[str, str]:
        pod = await self._store.get(PodObject, ObjectKey(namespace, name))
        return pod.metadata.annotations if pod is not None else {}


def _addresses(attachment: Attachment) -> tuple[IPAddress, ...]:
    return tuple(each.ip for each in attachment.wires.addresses)


async def _breathing(steps: Iterable[None]) -> None:
    """Long work on the event loop, with room for others in between."""
    for number, _ in enumerate(steps):
        if number % _BREATH == 0:
            await asyncio.sleep(0)


def _forwarding(local: LocalNode) -> Iterator[Sysctl]:
    """A node is a router, and one that forwards IPv6 takes no more advertisements unless told that it still may."""
    if local.subnet is not None:
        yield Sysctl("net/ipv4/ip_forward", "1")
    if local.ipv6_subnet is not None:
        advertised = f"net/ipv6/conf/{local.interface_v6.name}/accept_ra"
        with suppress(OSError):  # no IPv6 in this kernel: the reconciler says so about the next one
            if sysctl.read(advertised) == "1":
                yield Sysctl(advertised, "2")
        yield Sysctl("net/ipv6/conf/all/forwarding", "1")
