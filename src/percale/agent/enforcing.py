"""Policies in force on this node: what the store says, judged by the evaluator, as this node's part of the table.

    Store.watch ─▶ Evaluator ─▶ touched ─┐
    CNI: admit, dismiss ─▶ addresses ────┴─▶ PolicyTable ─▶ NodeTable ─▶ flows judged again (`cutting.py`)

`node.py` and `policing.py` run it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from msgspec.structs import replace

from percale.agent.following import STORE, follow
from percale.agent.table import NodeTable
from percale.agent.troubles import Troubles
from percale.model.meta import Object, ObjectKey
from percale.model.pod import Pod
from percale.policy.evaluator import KINDS, Evaluator, Touched
from percale.policy.pods import PodFacts, facts_of
from percale.render.contents import Edit
from percale.render.objects import IPAddress
from percale.render.policy_table import PolicyTable
from percale.store.protocol import Deleted, Snapshot, Store, Upserted

_BREATH = 200
"""Objects of a snapshot between two breaths of the event loop."""


class Reconsider(Protocol):
    """Judges the connections of these addresses again; None: all of this node's pods."""

    async def __call__(self, addresses: frozenset[bytes] | None) -> None: ...


class Enforcement:
    """All methods are called on the event loop."""

    def __init__(
        self,
        node: str,
        store: Store,
        table: NodeTable,
        *,
        troubles: Troubles,
        attached: Mapping[ObjectKey, Iterable[IPAddress]] | None = None,
        reconsider: Reconsider | None = None,
        on_local_pods: Callable[[], None] = lambda: None,
    ) -> None:
        """`attached`: this node's pods that were wired before the agent started, with their addresses."""
        self.evaluator = Evaluator()
        self.table = PolicyTable(self.evaluator, node)
        self.local_pods: set[bytes] = set()
        """The packed addresses of this node's pods; `on_local_pods` hears of changes."""
        self.spoken = False
        self._node = node
        self._store = store
        self._node_table = table
        self._troubles = troubles
        self._reconsider = reconsider
        self._on_local_pods = on_local_pods
        self._attached = {pod: _packed(addresses) for pod, addresses in (attached or {}).items()}
        self._known: set[tuple[type[Object], ObjectKey]] = set()
        self._touched: list[Touched] = []
        self._brought: list[Touched] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._woken: list[asyncio.Future[None]] = []
        table.add(self)

    async def run(self) -> None:
        """For ever."""
        await follow(self._store, KINDS, self._event, self._troubles)

    # Pods of this node

    async def admit(self, pod: ObjectKey, addresses: Iterable[IPAddress]) -> None:
        """The rules for this pod, which is about to have these addresses, are in place when this returns.

        Raises StoreError.
        """
        self._attached[pod] = _packed(addresses)
        facts = self.evaluator.members.pod(pod)
        if facts is None:
            found = await self._store.get(Pod, pod)
            if found is None:
                return  # no pod of the cluster: no policy can select it
            facts = facts_of(found)
            self._known.add((Pod, pod))
        self._note(self.evaluator.put_facts(self._as_attached(facts)))
        if not self._touched and self._node_table.in_force.is_set():
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._node_table.touch()
        await done

    def dismiss(self, pod: ObjectKey) -> None:
        """The pod's wires are gone; its object may stay for a while, and says which addresses it has."""
        self._attached.pop(pod, None)

    def _as_attached(self, facts: PodFacts) -> PodFacts:
        """What the pod's wires have counts more than what its status says."""
        addresses = self._attached.get(facts.key)
        if addresses is None or not facts.selectable:
            return facts
        return replace(facts, addresses=addresses, rank=(True, *facts.rank[1:]))

    # What the store says

    async def _event(self, event: Snapshot | Upserted | Deleted) -> None:
        match event:
            case Snapshot():
                await self._replace(event.objects)
                if not self.spoken:
                    await self._troubles.without(STORE)  # what cannot be read may be a policy that is in force
                    self.spoken = True
                self._node_table.touch()
            case Upserted():
                self._put(event.object)
            case Deleted():
                self._remove(type(event.object), event.object.key)

    async def _replace(self, objects: Iterable[Object]) -> None:
        gone = set(self._known)
        # Policies before pods: a pod that comes finds the terms that mean it, and is looked at once.
        for number, obj in enumerate(sorted(objects, key=lambda each: isinstance(each, Pod))):
            gone.discard((type(obj), obj.key))
            self._put(obj)
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        for kind, key in gone:
            self._remove(kind, key)

    def _put(self, obj: Object) -> None:
        self._known.add((type(obj), obj.key))
        if isinstance(obj, Pod):
            self._note(self.evaluator.put_facts(self._as_attached(facts_of(obj))))
        else:
            self._note(self.evaluator.put(obj))

    def _remove(self, kind: type[Object], key: ObjectKey) -> None:
        self._known.discard((kind, key))
        self._note(self.evaluator.remove(kind, key))

    def _note(self, touched: Touched) -> None:
        if not touched:
            return
        self._touched.append(touched)
        self._note_local(touched)
        self._node_table.touch()

    def _note_local(self, touched: Touched) -> None:
        before = set(self.local_pods)
        for move in touched.moved:
            if move.old is not None and move.old.node == self._node:
                self.local_pods.difference_update(move.old.addresses)
            if move.new is not None and move.new.node == self._node:
                self.local_pods.update(move.new.addresses)
        if self.local_pods != before:
            self._on_local_pods()

    # This node's table

    def edit(self) -> Edit:
        """What has changed since the last call."""
        touched, self._touched = self._touched, []
        self._brought += touched
        self._woken += self._waiting
        self._waiting = []
        return self.table.update(touched)

    def image(self) -> Edit:
        """All rules, from the static text alone."""
        return self.table.image()

    async def made(self, *, anything: bool) -> None:
        """Pods that wait may live, and established connections are judged anew."""
        brought, self._brought = self._brought, []
        woken, self._woken = self._woken, []
        for done in woken:
            if not done.done():
                done.set_result(None)
        if self._reconsider is not None and brought and anything:
            await self._reconsider(_addresses(brought))


def _packed(addresses: Iterable[IPAddress]) -> tuple[bytes, ...]:
    return tuple(address.packed for address in addresses)


def _addresses(touched: Iterable[Touched]) -> frozenset[bytes] | None:
    """Whose connections may be judged otherwise now: a policy's change may concern every pod that it selects."""
    changes = list(touched)
    if any(change.policies or change.nodes for change in changes):
        return None
    moved = (each for change in changes for each in change.moved)
    return frozenset(
        address for move in moved for pod in (move.old, move.new) if pod is not None for address in pod.addresses
    )
