"""Verbs of the lab's API that read objects: `get`, `describe`, `logs`. Served by `server`.

A request with `after`, the revision of an earlier answer, is answered when something has changed since: `get -w` and
`wait` ask again and again, and no more often than the cluster changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from msgspec import Struct

from percale.errors import LabError
from percale.lab.api import columns
from percale.lab.api.describe import Neighbourhood, describe
from percale.lab.api.kind_names import full_name, kind_of
from percale.lab.api.live_status import LiveState, pods_by_owner, with_status
from percale.lab.api.probe_targets import ProbeTargets
from percale.lab.api.server import Answer, Verb
from percale.lab.cluster import Cluster
from percale.model.endpoints import EndpointSlice
from percale.model.event import Event
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.manifest.encode import to_plain
from percale.model.meta import Object
from percale.model.namespace import Namespace
from percale.model.networkpolicy import NetworkPolicy
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease
from percale.model.validation.shared import check_labels
from percale.suggestion import did_you_mean

_ALL = ("Pod", "Service", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet", "Job")
"""What `get all` shows, as kubectl."""
_LONGEST_WAIT = 20.0
"""Seconds until a request with `after` is answered although nothing has changed: its client may be gone."""


class Wanted(Struct, frozen=True):
    """Objects of a kind: those of these names, or without any all."""

    kind: str
    names: tuple[str, ...] = ()


Kinds: TypeAlias = Sequence[tuple[type[Object], Sequence[str]]]
"""Each with the names of the wanted objects; none: all of them."""


class Found(Struct, frozen=True):
    """Objects of each kind, the named ones that are missing, and what to say when there is nothing."""

    objects: Sequence[Sequence[Object]]
    missing: Sequence[str]
    nothing: str


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
        kinds = _kinds(wanted)
        if after is not None:
            await self.cluster.wait_changed(after.revision, min(after.patience, _LONGEST_WAIT))
        found = self._find(kinds, namespace, label_selector(selector), everywhere=everywhere)
        context, state = self._column_context(), self.live_state()
        sections = []
        for objects in filter(None, found.objects):
            shown = [with_status(obj, state) for obj in objects]
            head, *rows = columns.rows(shown, context, wide=wide, namespaces=everywhere, kinds=len(kinds) > 1)
            plain, names = list(map(to_plain, shown)), list(map(full_name, shown))
            sections.append({"head": head, "rows": rows, "objects": plain, "names": names})
        return {
            "revision": self.cluster.revision,
            "sections": sections,
            "missing": found.missing,
            "nothing": found.nothing,
        }

    def _find(self, kinds: Kinds, namespace: str | None, labels: set[tuple[str, str]], *, everywhere: bool) -> Found:
        home = namespace or DEFAULT_NAMESPACE
        found, missing, elsewhere = [], [], 0
        for kind, names in kinds:
            there: Sequence[Object] = self.cluster.cache.all(kind)
            inside = [obj for obj in there if everywhere or not kind.NAMESPACED or obj.metadata.namespace == home]
            elsewhere += len(there) - len(inside)
            found.append([obj for obj in inside if _fits(obj, names, labels)])
            known = {obj.metadata.name for obj in found[-1]}
            missing += [not_there(kind, name, home, there) for name in names if name not in known]
        nothing = _nothing([kind for kind, _ in kinds], None if everywhere else home, 0 if labels else elsewhere)
        namespaces = [each.metadata.name for each in self.cluster.cache.all(Namespace)]
        if home not in namespaces and (hint := did_you_mean(home, namespaces, prefix="-n ")) is not None:
            nothing = f"{nothing}; {hint}"
        return Found(found, missing, nothing)

    async def describe(
        self, *, wanted: Sequence[Wanted], namespace: str | None, everywhere: bool, selector: str
    ) -> Answer:
        """Pages for people: each object with what belongs to it, and its events."""
        found = self._find(_kinds(wanted), namespace, label_selector(selector), everywhere=everywhere)
        around, state = self._neighbourhood(), self.live_state()
        pages = [describe(with_status(obj, state), around) for objects in found.objects for obj in objects]
        return {"pages": pages, "missing": found.missing, "nothing": found.nothing}

    def _neighbourhood(self) -> Neighbourhood:
        cache, agents = self.cluster.cache, self.cluster.machines.agents
        nodes, state = cache.all(Node), self.live_state()
        return Neighbourhood(
            pods=cache.all(Pod),
            policies=cache.all(NetworkPolicy),
            slices=cache.all(EndpointSlice),
            leases=cache.all(SubnetLease),
            nodes={node.metadata.name: with_status(node, state) for node in nodes},
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


def not_there(kind: type[Object], name: str, namespace: str | None, known: Iterable[Object]) -> str:
    """What is said of an object that does not exist; `known` are those of its kind."""
    homes = sorted({obj.metadata.namespace or "" for obj in known if obj.metadata.name == name} - {namespace, ""})
    hint = f"; did you mean -n {homes[0]}?" if homes else ""
    return f"there is no {kind.KIND.lower()} {name}{_within(kind, namespace)}{hint}"


def label_selector(text: str) -> set[tuple[str, str]]:
    """`K=V,…`. Raises LabError."""
    found = set()
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        label = (key, value.removeprefix("="))
        if not equals or any(check_labels(dict((label,)), ())):
            raise LabError(f"{part!r} is not K=V", hint="write -l app=web,tier=front")
        found.add(label)
    return found


def _kinds(wanted: Sequence[Wanted]) -> Kinds:
    """Raises LabError."""
    found = []
    for each in wanted:
        if each.kind != "all":
            found.append((kind_of(each.kind), each.names))
        elif each.names:
            raise LabError("`all` is several kinds, and takes no name", hint="name the kind: pod, service, …")
        else:
            found += [(kind_of(kind), ()) for kind in _ALL]
    return found


def _fits(obj: Object, names: Sequence[str], labels: set[tuple[str, str]]) -> bool:
    return (not names or obj.metadata.name in names) and labels <= obj.metadata.labels.items()


def _nothing(kinds: Sequence[type[Object]], namespace: str | None, elsewhere: int) -> str:
    within = _within(kinds[0], namespace) if namespace is not None and kinds else ""
    plurals = ", ".join(kind.PLURAL for kind in kinds)
    return f"no {plurals}{within}" + (f"; {elsewhere} elsewhere: -A shows all" if elsewhere else "")


def _within(kind: type[Object], namespace: str | None) -> str:
    return f" in namespace {namespace}" if kind.NAMESPACED else ""
