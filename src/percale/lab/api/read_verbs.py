"""Verbs of the lab's API that read objects: `get`, `describe`, `logs`. Served by `server`.

A request with `after`, the revision of an earlier answer, is answered when something has changed since: `get -w` and
`wait` ask again and again, and no more often than the cluster changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from msgspec import Struct

from percale.errors import LabError
from percale.lab.api.describe import Neighbourhood, describe
from percale.lab.api.live_status import LiveState, pods_by_owner, with_status
from percale.lab.api.probe_targets import ProbeTargets
from percale.lab.api.server import Answer, Verb
from percale.lab.cluster import Cluster
from percale.model.endpoints import EndpointSlice
from percale.model.event import Event
from percale.model.meta import Object
from percale.model.networkpolicy import NetworkPolicy
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease
from percale.objects import columns
from percale.objects.selection import Scope, Wanted, find, sections, wanted_kinds

T = TypeVar("T", bound=Object)

_LONGEST_WAIT = 20.0
"""Seconds until a request with `after` is answered although nothing has changed: its client may be gone."""


class After(Struct, frozen=True):
    """Answer when the revision is another one, or after so many seconds."""

    revision: int
    patience: float


class ReadVerbs(Struct, frozen=True):
    """Each method is a verb; its arguments are the request's fields."""

    cluster: Cluster

    def all(self) -> Mapping[str, Verb]:
        """By the names that requests use."""
        return {"get": self.get, "describe": self.describe, "logs": self.logs}

    async def get(
        self,
        *,
        wanted: Sequence[Wanted],
        namespace: str | None,
        everywhere: bool,
        wide: bool,
        selector: str,
        after: After | None,
    ) -> Answer:
        """Objects as tables, a section for each kind, and as plain data; what is missing of those with names."""
        kinds, scope = wanted_kinds(wanted), Scope(namespace, everywhere, selector)
        if after is not None:
            await self.cluster.wait_changed(after.revision, min(after.patience, _LONGEST_WAIT))
        found = find(kinds, scope, self.cluster.cache.all)
        context, state = self._column_context(), self.live_state()
        shown = [[self._current(obj, state) for obj in objects] for objects in found.objects]
        return {
            "revision": self.cluster.revision,
            "sections": sections(shown, context, scope, wide=wide),
            "missing": found.missing,
            "nothing": found.nothing,
        }

    async def describe(
        self, *, wanted: Sequence[Wanted], namespace: str | None, everywhere: bool, selector: str
    ) -> Answer:
        """Pages for people: each object with what belongs to it, and its events."""
        found = find(wanted_kinds(wanted), Scope(namespace, everywhere, selector), self.cluster.cache.all)
        around, state = self._neighbourhood(), self.live_state()
        pages = [describe(self._current(obj, state), around) for objects in found.objects for obj in objects]
        return {"pages": pages, "missing": found.missing, "nothing": found.nothing}

    def _neighbourhood(self) -> Neighbourhood:
        cache, agents = self.cluster.cache, self.cluster.machines.agents
        nodes, state = cache.all(Node), self.live_state()
        return Neighbourhood(
            pods=cache.all(Pod),
            policies=cache.all(NetworkPolicy),
            slices=cache.all(EndpointSlice),
            leases=cache.all(SubnetLease),
            nodes={node.metadata.name: self._current(node, state) for node in nodes},
            agents={node.metadata.name: agents.state(node.metadata.name) for node in nodes},
            events=cache.all(Event),
            now=datetime.now(UTC),
        )

    async def logs(self, *, target: str, namespace: str | None, after: int, patience: float) -> Answer:
        """What the lab has answered for a pod or host: the lines after so many, once there are some."""
        found = ProbeTargets(self.cluster).find(target, namespace)
        log = self.cluster.machines.responder.logs.get(str(found.pod) if found.pod is not None else found.hostname)
        if log is None:
            raise LabError(
                f"nothing answers for {found.name}",
                hint="the lab answers on the containerPorts of pods and for outside hosts",
            )
        await log.wait_beyond(after, min(patience, _LONGEST_WAIT))
        return {"lines": log.after(after), "count": log.count}

    def _current(self, obj: T, state: LiveState) -> T:
        """The object with its status."""
        return with_status(obj, state) if self.cluster.control.computes_status else obj

    def live_state(self) -> LiveState:
        """What the status of objects depends on, as of now."""
        agents = self.cluster.machines.agents
        nodes = self.cluster.cache.all(Node)
        ready = frozenset(node.metadata.name for node in nodes if agents.state(node.metadata.name).ready)
        return LiveState(pods_by_owner(self.cluster.cache.all(Pod)), nodes, ready)

    def _column_context(self) -> columns.ColumnContext:
        return columns.ColumnContext(subnets=subnets(self.cluster.cache.all(SubnetLease)), now=datetime.now(UTC))


def subnets(leases: Sequence[SubnetLease]) -> dict[str, str]:
    """Each node's pod subnets as text."""
    return {lease.spec.node: ",".join(map(str, lease.spec.subnets)) for lease in leases}
