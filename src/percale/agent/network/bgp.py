"""BGP on this node: what the cluster says goes to the backend's process, what BIRD has learned goes into the main table.

    BGPConfiguration, BGPPeer, BGPFilter, Node, Service, EndpointSlice ─▶ BgpWorld ─▶ BackendSupervisor ─▶ BIRD
                                                                                                             │ table 179
    Peers.set_learned ◀─ declare("bgp/PREFIX", route) ◀──────────────────────── TableFollower ◀──────────────┘

BIRD would repair its own routes at its next scan only; these are the reconciler's, which repairs them at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from percale.agent.context import AgentContext
from percale.agent.informer import Change, Informer
from percale.agent.network.peers import Peers
from percale.agent.status import BgpRoute, BgpSession, BgpStatus
from percale.backend.bgp.bird_process import PROTOCOL, TABLE, BirdProcess
from percale.backend.bgp.service_prefixes import ServicePrefixes
from percale.backend.bgp.sessions import BgpObjects, facts_of_node, secrets_of, service_blocks
from percale.backend.bgp.speaker import Prefix
from percale.backend.bgp.world import BgpWorld
from percale.bounded_file import read_regular_file
from percale.errors import BadConfig, KernelError
from percale.kernel.rtnl.table_follower import TableChanges, TableFollower
from percale.model.addresses import IPNetwork
from percale.model.bgp import BGPConfiguration, BGPFilter, BGPPeer, SecretKey
from percale.model.endpoints import EndpointSlice
from percale.model.meta import Object
from percale.model.node import Node
from percale.model.service import Service
from percale.render.network.elements import Element
from percale.render.network.tunnels import SessionPort, session_elements, speaker_elements
from percale.render.objects import Route
from percale.store.protocol import Deleted, Snapshot

T = TypeVar("T")

KINDS: tuple[type[Object], ...] = (BGPConfiguration, BGPPeer, BGPFilter, Node, Service, EndpointSlice)
_IGNORED = "bgp fields"
_PASSWORDS = 10.0
"""Seconds between two looks at passwords: a Secret's files change by themselves."""


class NodeBgp:
    """All methods are called on the event loop."""

    def __init__(
        self,
        context: AgentContext,
        daemon: BirdProcess,
        networks: tuple[IPNetwork, ...],
        own: Callable[[], tuple[IPNetwork, ...]],
        *,
        peers: Peers,
        declare_elements: Callable[[str, Iterable[Element]], None],
        reserve_ports: Callable[[Iterable[SessionPort]], None],
        request_sync: Callable[[], None],
        on_routes: Callable[[], None],
    ) -> None:
        """`own` are this node's subnets and blocks.

        `request_sync` has the process configured again; `on_routes` is called after routes changed.
        """
        self._daemon = daemon
        self._networks, self._own = networks, own
        self._reconciler, self._problems = context.reconciler, context.problems
        self._peers = peers
        self._declare_elements, self._reserve_ports = declare_elements, reserve_ports
        self._request_sync, self._on_routes = request_sync, on_routes
        self._secrets = Path(context.config.secretsDir)
        # Its kinds are watched where they are needed only, so that no other node's agent asks for them.
        self._informer = Informer(context.store, context.problems, "bgp store")
        self._changes = self._informer.subscribe(*KINDS)
        self._objects = BgpObjects()
        self._services = ServicePrefixes(context.config.node)
        self._learned: dict[IPNetwork, Route] = {}

    def start(self, exit_stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> None:
        """Declare the routes that BIRD has brought already: before stale ones are deleted. Raises KernelError."""
        loop = asyncio.get_running_loop()
        try:
            follower = TableFollower(TABLE, PROTOCOL)
        except OSError as error:
            raise KernelError.from_os(error, where=f"reading routing table {TABLE}") from error
        self._on_table(follower.initial)
        follower.start(lambda changes: _call_on(loop, self._on_table, changes))
        exit_stack.callback(follower.close)
        tasks.create_task(self._informer.run(), name="bgp objects")
        tasks.create_task(self._changes.run(self._on_change), name="bgp")
        tasks.create_task(self._follow_passwords(), name="bgp passwords")

    # What the cluster says

    async def _on_change(self, event: Change) -> None:
        if isinstance(event, Snapshot):
            self._objects = BgpObjects()
            self._services.clear()
            for obj in event.objects:
                self._put(obj, gone=False)
            self._read_passwords()
        else:
            self._put(event.object, gone=isinstance(event, Deleted))
            if isinstance(event.object, BGPConfiguration | BGPPeer):
                self._read_passwords()
        self.update()

    def _put(self, obj: Object, *, gone: bool) -> None:
        name, objects = obj.metadata.name, self._objects
        match obj:
            case BGPConfiguration():
                self._objects = replace(
                    objects, configurations=_with(objects.configurations, name, None if gone else obj.spec)
                )
            case BGPPeer():
                self._objects = replace(objects, peers=_with(objects.peers, name, None if gone else obj.spec))
            case BGPFilter():
                self._objects = replace(objects, filters=_with(objects.filters, name, None if gone else obj))
            case Node():
                facts = None if gone else facts_of_node(obj)
                if objects.nodes.get(name) != facts:
                    self._objects = replace(objects, nodes=_with(objects.nodes, name, facts))
            case Service():
                self._services.remove_service(obj.key) if gone else self._services.put_service(obj)
            case EndpointSlice():
                self._services.remove_slice(obj.key) if gone else self._services.put_slice(obj)

    def update(self) -> None:
        """Something of the cluster, or what is this node's own, has changed."""
        self._services.set_blocks(service_blocks(self._objects))
        prefixes = tuple(map(Prefix, self._own()))
        world = BgpWorld(self._objects, self._networks, prefixes, self._services.prefixes)
        if world != self._daemon.world:
            self._daemon.world = world
            self._request_sync()

    def _read_passwords(self) -> None:
        """One file a key, as a mounted Secret has them; what cannot be read is missing, and its peer says so."""
        found: dict[SecretKey, str] = {}
        for key in secrets_of(self._objects):
            with suppress(OSError, UnicodeDecodeError):
                found[key] = read_regular_file(self._secrets / key.name / key.key).decode().removesuffix("\n")
        self._objects = replace(self._objects, passwords=found)

    async def _follow_passwords(self) -> None:
        while True:
            await asyncio.sleep(_PASSWORDS)
            if self._daemon.world is not None and secrets_of(self._objects):
                self._read_passwords()
                self.update()

    def on_configured(self) -> None:
        """The process was configured: pods are kept from its neighbours, and fields without effect are a problem."""
        process = self._daemon
        # Of sessions that are down, too: a pod's packets to a router would have the node's address.
        sessions = (*process.sessions, *process.kept)
        own: set[SessionPort] = {("TCP", each.local_port) for each in sessions}
        theirs: set[SessionPort] = {("TCP", each.port) for each in sessions}
        neighbors = (each.neighbor for each in sessions)
        self._declare_elements("bgp", (*speaker_elements(neighbors), *session_elements(own | theirs)))
        self._reserve_ports(own)
        if process.ignored:
            more = f" (and {len(process.ignored) - 1} more)" if process.ignored[1:] else ""
            self._problems.raise_(_IGNORED, BadConfig(f"{process.ignored[0]} has no effect here{more}"))
        else:
            self._problems.clear(_IGNORED)

    # What BIRD has learned

    def _on_table(self, changes: TableChanges) -> None:
        for dst, route in changes.items():
            usable = route if route is not None and route.kind == "unicast" else None
            if usable is not None:
                self._learned[dst] = usable
            else:
                self._learned.pop(dst, None)
            self._reconciler.declare(f"bgp/{dst}", (usable,) if usable is not None else ())
            self._peers.set_learned(dst, usable)
        self._on_routes()

    def status(self) -> BgpStatus:
        """For /status."""
        world = self._daemon.world
        return BgpStatus(
            sessions=tuple(
                BgpSession(
                    address=str(each.session.neighbor),
                    type=each.session.type,
                    state=each.state,
                    since=each.since,
                    info=each.info,
                    node=each.session.node,
                )
                for each in self._daemon.states
            ),
            routes=tuple(
                BgpRoute(network=str(dst), via=str(route.via) if route.via is not None else None, dev=route.dev)
                for dst, route in sorted(self._learned.items(), key=lambda item: (item[0].version, item[0]))
            ),
            services=tuple(map(str, world.services)) if world is not None else (),
        )


def _call_on(loop: asyncio.AbstractEventLoop, callback: Callable[[TableChanges], None], changes: TableChanges) -> None:
    loop.call_soon_threadsafe(callback, changes)


def _with(known: Mapping[str, T], name: str, value: T | None) -> dict[str, T]:
    """A copy with this value, or without the name."""
    others = {key: each for key, each in known.items() if key != name}
    return {**others, name: value} if value is not None else others
