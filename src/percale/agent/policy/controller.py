"""Applies policies on this node: objects from the store, compiled by the evaluator, are this node's section of the table.

    Store.watch ─▶ Evaluator ─▶ deltas ────────┐
    CNI: before_add, after_del ─▶ addresses ───┼─▶ PolicyRenderer ─▶ NodeTable ─▶ recheck of flows (`established_flows.py`)
    DomainResolver ─▶ addresses of names ──────┘

`node_agent.py` runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Protocol

from msgspec.structs import replace

from percale.agent.events import InvolvedObject
from percale.agent.informer import Change, Informer
from percale.agent.policy.domain_names import DomainResolver
from percale.agent.policy.unknown_pods import UnknownPods
from percale.agent.problems import Problems
from percale.agent.table_sections import NodeTable
from percale.cni.records import Attachment
from percale.errors import BadManifest, StoreError
from percale.event_loop import yield_every
from percale.model.addresses import IPAddress
from percale.model.meta import Object, ObjectKey
from percale.model.pod import Pod
from percale.policy.compiled_policy import PolicyKey
from percale.policy.evaluator import Evaluator, PolicyDelta
from percale.policy.kinds.registry import POLICY_KINDS, PolicyKinds
from percale.policy.pod_facts import PodFacts, facts_of, hash_of_uid, unknown_facts
from percale.render.nft.objects import Transaction
from percale.render.policy.renderer import PolicyRenderer
from percale.store.protocol import Deleted, Snapshot, Upserted

_PATIENCE = 2.0
"""Seconds that an ADD waits for the store to say what its pod is."""
_YIELD_EVERY = 200
"""Objects of a snapshot before the event loop gets a turn."""


class Recheck(Protocol):
    """Evaluates the established connections of these packed addresses again."""

    async def __call__(self, addresses: frozenset[bytes]) -> None: ...


class PolicyController:
    """All methods are called on the event loop."""

    def __init__(
        self,
        node: str,
        informer: Informer,
        table: NodeTable,
        *,
        problems: Problems,
        warn: Callable[[InvolvedObject, str, str], None] = lambda involved, reason, message: None,
        recheck: Recheck | None = None,
        forget: Callable[[frozenset[bytes]], Awaitable[None]] | None = None,
        on_local_pods: Callable[[], None] = lambda: None,
        policy_kinds: PolicyKinds = POLICY_KINDS,
    ) -> None:
        """`forget` ends the flows of packed addresses that get another pod. It raises KernelError."""
        self.evaluator = Evaluator(policy_kinds=policy_kinds)
        self.renderer = PolicyRenderer(self.evaluator, node)
        self.local_pods: set[bytes] = set()
        """The packed addresses of this node's pods; `on_local_pods` is called on changes."""
        self._consistent = asyncio.Event()
        """Not before the first Snapshot has been taken in, nor in the middle of another."""
        self._released = False
        """Whether the kernel may lose the rules of the previous run."""
        self._node = node
        self._informer = informer
        self._subscription = informer.subscribe(*self.evaluator.kinds)
        self._node_table = table
        self._problems = problems
        self._warn = warn
        self._too_large: frozenset[PolicyKey] = frozenset()
        self._recheck = recheck
        self._forget = forget
        self._on_local_pods = on_local_pods
        self._attached: dict[ObjectKey, tuple[bytes, ...]] = {}
        """The addresses of this node's attached pods, of all interfaces."""
        self._last_facts: dict[ObjectKey, PodFacts] = {}
        """The last facts of such a pod from the store: while it has wires its policies apply, whatever becomes of its object."""
        self._deleted: set[ObjectKey] = set()
        """Attached pods whose object was deleted."""
        self._unknown = UnknownPods(lambda pod: informer.get(Pod, pod), self._learned, problems)
        self._resolver = DomainResolver(lambda: self.evaluator.domains, self._update_addresses, problems)
        self._deltas: list[PolicyDelta] = []
        self._held_back = False
        """Whether the renderer has deltas that no transaction had."""
        self._pending_recheck: frozenset[bytes] = frozenset()
        """Packed addresses whose connections are rechecked once the kernel holds the last `changes`."""
        self._in_flight = False
        self._foreign_change = self._recheck_all = False
        """The kernel may have applied other rules than ours: since the last `changes`, and before them."""
        table.add(self)
        table.on_foreign_change(self._on_foreign_change)

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._subscription.run(self._on_event), name="objects")
            tasks.create_task(self._resolver.run(), name="names")
            tasks.create_task(self._unknown.run(), name="unknown pods")
            tasks.create_task(self._release(), name="first sync")

    @property
    def synced(self) -> bool:
        """Whether the kernel may have what the evaluator has."""
        return self._released and self._consistent.is_set()

    async def _release(self) -> None:
        """Events go on meanwhile: what the kernel gets then is the state of then."""
        await self._consistent.wait()
        await self._informer.wait_complete()  # an unreadable file may contain a policy that is in force
        await self._resolver.wait_resolved()  # connections that the previous run allowed continue
        self._released = True
        self._node_table.request_sync()

    # Pods of this node

    async def before_add(self, attachment: Attachment) -> None:
        """The kernel holds the rules for this pod and its addresses when this returns, and no flows of a pod that had them.

        Raises KernelError.
        """
        if attachment.pod is None:
            return
        pod = attachment.pod.key
        self.attach(pod, attachment.wires.ips)
        facts = await self._lookup(pod, hash_of_uid(attachment.pod.uid))
        if facts is None:
            return  # not a pod of the cluster: no policy can select it
        if facts.unknown:
            self._put_unknown(facts)
        else:
            self._put_pod(facts)
        if not self._node_table.applied.is_set():
            self._node_table.request_sync()
        await self._node_table.flush()
        if self._forget is not None:
            await self._forget(frozenset(_packed(attachment.wires.ips)))

    def attach(self, pod: ObjectKey, addresses: Iterable[IPAddress]) -> None:
        """A pod of this node has these addresses; also called for pods of previous runs."""
        self._attached[pod] = tuple(dict.fromkeys((*self._attached.get(pod, ()), *_packed(addresses))))

    def address_owner(self, address: IPAddress) -> ObjectKey | None:
        """The pod that has this address, by its attachment here or by its object."""
        owner = self.evaluator.selector_index.owner(address.packed)
        return owner.key if owner is not None else None

    async def _lookup(self, pod: ObjectKey, uid: int) -> PodFacts | None:
        """Also for a pod whose watch event has not arrived yet, or that has the name of one that is gone.

        `uid` is what the runtime says, 0 if nothing; an object of a static pod has another one.
        """
        known = self._last_facts.get(pod) or self.evaluator.selector_index.pod(pod)
        if known is not None and pod not in self._deleted and _may_be(known, uid):
            return known
        try:
            async with asyncio.timeout(_PATIENCE):
                found = await self._informer.get(Pod, pod)
        except (StoreError, BadManifest, TimeoutError):  # the ADD does not wait for the store
            arrived = self._last_facts.get(pod) if pod not in self._deleted else None
            return arrived if arrived is not None and _may_be(arrived, uid) else unknown_facts(pod)
        arrived = self._last_facts.get(pod)
        if arrived is not None and (found is None or (pod not in self._deleted and _may_be(arrived, uid))):
            return arrived  # its event came meanwhile, or its object is gone
        return facts_of(found) if found is not None else None

    def _put_unknown(self, facts: PodFacts) -> None:
        """Also in place of a pod of the same name that is gone."""
        self._last_facts.pop(facts.key, None)
        self._deleted.discard(facts.key)
        self._unknown.add(facts.key)
        self._record(self.evaluator.put_facts(self._as_attached(facts)))

    def _learned(self, pod: ObjectKey, found: Pod | None) -> None:
        """The store's answer about a pod that was unknown."""
        if found is not None:
            self._put_pod(facts_of(found))
        else:
            self._record(self.evaluator.remove(Pod, pod))

    def after_del(self, attachment: Attachment) -> None:
        """These of the pod's devices are gone; its object may remain for a while, with its addresses in the status."""
        if attachment.pod is None:
            return
        pod, gone = attachment.pod.key, _packed(attachment.wires.ips)
        left = tuple(each for each in self._attached.pop(pod, ()) if each not in gone)
        if left:
            self._attached[pod] = left
        facts = self._last_facts.get(pod)
        if facts is None:
            if pod in self._unknown:
                self._detach_unknown(pod, gone=not left)
            return
        if left or pod not in self._deleted:
            self._record(self.evaluator.put_facts(self._as_attached(facts)))
        else:
            self._record(self.evaluator.remove(Pod, pod))
        if not left:
            del self._last_facts[pod]
            self._deleted.discard(pod)

    def _detach_unknown(self, pod: ObjectKey, *, gone: bool) -> None:
        if not gone:
            self._put_unknown(unknown_facts(pod))
            return
        self._unknown.discard(pod)
        self._record(self.evaluator.remove(Pod, pod))

    def _as_attached(self, facts: PodFacts) -> PodFacts:
        """An attached pod runs here, with its attachment's addresses; its object may be another pod's of the same name."""
        addresses = self._attached.get(facts.key)
        if addresses is None:
            return facts
        rank = (True, *facts.rank[1:])
        return replace(facts, addresses=addresses, host_addresses=None, node=self._node, finished=False, rank=rank)

    # Store events

    async def _on_event(self, event: Change) -> None:
        match event:
            case Snapshot():
                self._consistent.clear()
                await self._replace(event.objects)
                if self._informer.restored:
                    self._deny_unknown()
                self._consistent.set()
                self._node_table.request_sync()
            case Upserted():
                self._put(event.object)
            case Deleted():
                self._remove(type(event.object), event.object.key)

    async def _replace(self, objects: Iterable[Object]) -> None:
        gone = set(self.evaluator.object_keys)
        async for obj in yield_every(_YIELD_EVERY, objects):
            gone.discard((type(obj), obj.key))
            self._put(obj)
        for kind, key in gone:
            self._remove(kind, key)

    def _deny_unknown(self) -> None:
        """Attached pods that the last state lacks came while the store was away."""
        for pod in self._attached:
            if self.evaluator.selector_index.pod(pod) is None:
                self._put_unknown(unknown_facts(pod))

    def _put(self, obj: Object) -> None:
        if isinstance(obj, Pod):
            self._deleted.discard(obj.key)
            self._put_pod(facts_of(obj))
        else:
            self._record(self.evaluator.put(obj))

    def _put_pod(self, facts: PodFacts) -> None:
        self._unknown.discard(facts.key)
        if facts.key in self._attached:
            self._last_facts[facts.key] = facts
        self._record(self.evaluator.put_facts(self._as_attached(facts)))

    def _remove(self, kind: type[Object], key: ObjectKey) -> None:
        if kind is Pod and key in self._unknown:
            return  # a list that is older than the pod
        if kind is Pod and key in self._last_facts:
            self._deleted.add(key)
        else:
            self._record(self.evaluator.remove(kind, key))

    def _update_addresses(self, names: Mapping[str, frozenset[bytes]]) -> None:
        self._record(self.evaluator.set_resolved_names(names))

    def _record(self, delta: PolicyDelta) -> None:
        if not delta:
            return
        if any(next(policy.domains, None) for pair in delta.policies for policy in pair if policy is not None):
            self._resolver.refresh()
        self._deltas.append(delta)
        self._record_local_pods(delta)
        if self._consistent.is_set() and not self._released:
            self._render()  # the deltas of a long wait would fill the memory
            self._held_back = True
        self._node_table.request_sync()

    def _record_local_pods(self, delta: PolicyDelta) -> None:
        removed = self._local_addresses(move.old for move in delta.pods)
        added = self._local_addresses(move.new for move in delta.pods)  # an address may move from one pod to another
        if removed != added:
            self.local_pods -= removed - added
            self.local_pods |= added
            self._on_local_pods()

    def _local_addresses(self, pods: Iterable[PodFacts | None]) -> set[bytes]:
        """The addresses of those pods that run on this node."""
        return {address for pod in pods if pod is not None and pod.node == self._node for address in pod.addresses}

    # Table section

    def _on_foreign_change(self) -> None:
        """Another process changed the table: connections that began meanwhile may be forbidden."""
        self._foreign_change = True

    def changes(self) -> Transaction:
        """Changes since the last call."""
        self._recheck_all |= self._foreign_change or self._in_flight  # the last transaction may have been rejected
        self._foreign_change = False
        self._in_flight = True
        transaction = self._render()
        if self._held_back:
            self._held_back = False
            return self.snapshot()
        return transaction

    def _render(self) -> Transaction:
        deltas, self._deltas = self._deltas, []
        transaction = self.renderer.update(deltas)
        self._report_too_large(self.evaluator.too_large)
        self._pending_recheck |= self.renderer.affected_addresses
        return transaction

    def _report_too_large(self, now: frozenset[PolicyKey]) -> None:
        before, self._too_large = self._too_large, now
        for policy in before ^ now:
            involved = self._object_of(policy)
            if policy in before:
                self._problems.clear(str(involved))
                continue
            error = BadManifest(
                f"{involved} would take too much of each node's time, by itself or with the others of its namespace: "
                "its rules are left out, and its pods isolated",
                hint="select with `In` instead of by many peers; policies of many peers belong in several namespaces",
            )
            self._problems.raise_(str(involved), error)
            self._warn(involved, "TooLarge", str(error))

    def _object_of(self, policy: PolicyKey) -> InvolvedObject:
        kind, key = self.evaluator.policy_kinds.object_key(policy)
        return InvolvedObject(kind.KIND, key)

    def snapshot(self) -> Transaction:
        """All rules, relative to the base chains."""
        return self.renderer.snapshot()

    def involved_objects(self, part: Transaction) -> Iterator[InvolvedObject]:
        """The policies whose rules this part contains, and the pods whose dispatch to their rules it is."""
        policies, pods = self.renderer.owners(part)
        yield from (self._object_of(policy) for policy in policies if policy in self.evaluator.policies)
        yield from (InvolvedObject("Pod", pod) for pod in pods)

    async def committed(self, *, changed: bool) -> None:
        """Recheck established connections."""
        pending, self._pending_recheck = self._pending_recheck, frozenset()
        self._in_flight = False
        if recheck_all := self._recheck_all:
            self._recheck_all = False
            pending |= self.local_pods
        if self._recheck is not None and pending and (changed or recheck_all):
            await self._recheck(pending)


def _may_be(facts: PodFacts, uid: int) -> bool:
    """Whether these may be the facts of the pod with this uid, not those of the last one of its name."""
    return facts.uid == uid or not (facts.uid and uid)


def _packed(addresses: Iterable[IPAddress]) -> tuple[bytes, ...]:
    return tuple(address.packed for address in addresses)
