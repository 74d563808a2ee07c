"""Policies in force on this node: what the store says, judged by the evaluator, as this node's part of the table.

    Store.watch ─▶ Evaluator ─▶ touched ─┐
    CNI: admit, dismiss ─▶ addresses ────┼─▶ PolicyTable ─▶ NodeTable ─▶ flows judged again (`established_flows.py`)
    names: what they resolve to ─────────┘

`node_agent.py` and `policy_only_agent.py` run it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from msgspec.structs import replace

from percale.agent.events import Subject
from percale.agent.nft_table import NodeTable
from percale.agent.policy.domain_names import Names
from percale.agent.problems import Problems
from percale.agent.watch import STORE, follow
from percale.model.meta import Object, ObjectKey
from percale.model.pod import Pod
from percale.policy.evaluator import KINDS, Evaluator, Touched
from percale.policy.pod_facts import PodFacts, facts_of
from percale.render.nft.objects import Edit
from percale.render.objects import IPAddress
from percale.render.policy.renderer import PolicyTable
from percale.store.protocol import Deleted, Snapshot, Store, Upserted

_POLICIES = {"np": "NetworkPolicy", "cnp": "ClusterNetworkPolicy"}
_BREATH = 200
"""Objects of a snapshot between two breaths of the event loop."""


class Reconsider(Protocol):
    """Judges the connections of these packed addresses again."""

    async def __call__(self, addresses: frozenset[bytes]) -> None: ...


class Enforcement:
    """All methods are called on the event loop."""

    def __init__(
        self,
        node: str,
        store: Store,
        table: NodeTable,
        *,
        problems: Problems,
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
        self._problems = problems
        self._reconsider = reconsider
        self._on_local_pods = on_local_pods
        self._attached = {pod: _packed(addresses) for pod, addresses in (attached or {}).items()}
        self._names = Names(lambda: self.evaluator.domains, self._learn, problems)
        self._touched: list[Touched] = []
        self._brought: frozenset[bytes] = frozenset()
        """Whose connections are to be judged again when the kernel has what `edit` said last."""
        self._bringing = False
        self._touched_by_others = self._unsure = False
        """The kernel may have judged by other rules than ours; as of now, and when it has what `edit` said last."""
        self._waiting: list[asyncio.Future[None]] = []
        self._woken: list[asyncio.Future[None]] = []
        table.add(self)
        table.on_touched(self._doubt)

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as duties:
            duties.create_task(follow(self._store, KINDS, self._event, self._problems), name="objects")
            duties.create_task(self._names.run(), name="names")

    # Pods of this node

    async def admit(self, pod: ObjectKey, addresses: Iterable[IPAddress]) -> None:
        """The rules for this pod, which is about to have these addresses, are in place when this returns.

        Raises StoreError.
        """
        self._attached[pod] = _packed(addresses)
        facts = self.evaluator.members.pod(pod) or await self._from_store(pod)
        if facts is None:
            return  # no pod of the cluster: no policy can select it
        self._note(self.evaluator.put_facts(self._as_attached(facts)))
        pending = self._touched or self._bringing or self._touched_by_others
        if not pending and self._node_table.in_force.is_set():
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._node_table.touch()
        await done

    async def _from_store(self, pod: ObjectKey) -> PodFacts | None:
        """A pod whose event has not come yet, unless it comes meanwhile."""
        found = await self._store.get(Pod, pod)
        facts = self.evaluator.members.pod(pod)
        if facts is None and found is not None:
            facts = facts_of(found)
        return facts

    def dismiss(self, pod: ObjectKey) -> None:
        """The pod's wires are gone; its object may stay for a while, and says which addresses it has."""
        self._attached.pop(pod, None)
        facts = self.evaluator.members.pod(pod)
        if facts is not None and facts.rank[0]:  # the next pod with these addresses is the one that has them
            self._note(self.evaluator.put_facts(replace(facts, rank=(False, *facts.rank[1:]))))

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
                first, self.spoken = not self.spoken, False  # half of a snapshot is no state of the cluster
                await self._replace(event.objects)
                if first:
                    await self._problems.wait_clear(STORE)  # what cannot be read may be a policy that is in force
                    await self._names.answered()  # what a former life allowed goes on
                self.spoken = True
                self._node_table.touch()
            case Upserted():
                self._put(event.object)
            case Deleted():
                self._remove(type(event.object), event.object.key)

    async def _replace(self, objects: Iterable[Object]) -> None:
        gone = set(self.evaluator.known)
        for number, obj in enumerate(objects):
            gone.discard((type(obj), obj.key))
            self._put(obj)
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        for kind, key in gone:
            self._remove(kind, key)

    def _put(self, obj: Object) -> None:
        if isinstance(obj, Pod):
            self._note(self.evaluator.put_facts(self._as_attached(facts_of(obj))))
        else:
            self._note(self.evaluator.put(obj))

    def _remove(self, kind: type[Object], key: ObjectKey) -> None:
        self._note(self.evaluator.remove(kind, key))

    def _learn(self, names: Mapping[str, frozenset[bytes]]) -> None:
        self._note(self.evaluator.learn(names))

    def _note(self, touched: Touched) -> None:
        if not touched:
            return
        if any(next(policy.domains, None) for pair in touched.policies for policy in pair if policy is not None):
            self._names.look()
        self._touched.append(touched)
        self._note_local(touched)
        self._node_table.touch()

    def _note_local(self, touched: Touched) -> None:
        gone = self._here(move.old for move in touched.moved)
        come = self._here(move.new for move in touched.moved)  # an address may go from one to another
        if gone != come:
            self.local_pods -= gone - come
            self.local_pods |= come
            self._on_local_pods()

    def _here(self, pods: Iterable[PodFacts | None]) -> set[bytes]:
        """The addresses of those that are on this node."""
        return {address for pod in pods if pod is not None and pod.node == self._node for address in pod.addresses}

    # This node's table

    def _doubt(self) -> None:
        """Somebody else changed the table: what began meanwhile may be forbidden."""
        self._touched_by_others = True

    def edit(self) -> Edit:
        """What has changed since the last call."""
        touched, self._touched = self._touched, []
        self._unsure |= self._touched_by_others or self._bringing  # the last one may have been refused
        self._touched_by_others = False
        self._bringing = True
        self._woken += self._waiting
        self._waiting = []
        edit = self.table.update(touched)
        self._brought |= self.table.concerned
        return edit

    def image(self) -> Edit:
        """All rules, from the static text alone."""
        return self.table.image()

    def subjects(self, part: Edit) -> Iterator[Subject]:
        """The policies that this part is of, and the pods whose way to their rules it is."""
        policies, pods = self.table.owners(part)
        for policy in policies:
            yield Subject(_POLICIES[policy.kind], ObjectKey(policy.namespace, policy.name))
        yield from (Subject("Pod", pod) for pod in pods)

    async def made(self, *, anything: bool) -> None:
        """Pods that wait may live, and established connections are judged anew."""
        brought, self._brought = self._brought, frozenset()
        self._bringing = False
        if unsure := self._unsure:
            self._unsure = False
            brought |= self.local_pods
        woken, self._woken = self._woken, []
        for done in woken:
            if not done.done():
                done.set_result(None)
        if self._reconsider is not None and brought and (anything or unsure):
            await self._reconsider(brought)


def _packed(addresses: Iterable[IPAddress]) -> tuple[bytes, ...]:
    return tuple(address.packed for address in addresses)
