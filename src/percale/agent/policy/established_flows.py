"""Cuts established connections that a policy change forbids, and restores them when they are allowed again.

    change ─▶ recheck(addresses) ─▶ run: their flows (conntrack, on a worker thread) ─▶ evaluate ─▶ marks ─▶ the table drops
                                                        └─ a namespace's that take long ─▶ a task of its own ─▶ the same

After each commit of the kernel's rules, and once at the start, the agent passes the addresses whose connections may have another
verdict now. A flow is evaluated as the new connection that it once was: from its source before masquerade to its destination
after DNAT. Only flows with an end on this node are considered. A policy may have thousands of rules, and its pods 100,000 flows:
what takes more than a second of a namespace's is done beside the others.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

from percale.agent.config.settings import AgentConfig
from percale.agent.logging import Log
from percale.agent.metrics import Metrics
from percale.agent.problems import Problems
from percale.agent.workqueue import RETRY_INTERVAL, WorkQueue
from percale.errors import KernelError
from percale.event_loop import WorkerThread, run_on_own_thread, yield_every
from percale.kernel.netlink.conntrack import Conntrack, ConntrackEntry, EntryFilter
from percale.model.pod import PROTOCOLS
from percale.policy.compiled_policy import DIRECTIONS
from percale.policy.evaluator import Evaluator
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import Direction, FlowProtocol
from percale.policy.verdict import Flow
from percale.render.policy.base_chains import CUT_MARK

T = TypeVar("T")

CONNTRACK = "conntrack"
"""The source of the problem."""
_BATCH = 500
"""Flows that the worker thread returns at a time."""
_YIELD_EVERY = 50
"""Flows evaluated before the event loop gets a turn."""
_COMPARISONS_AT_ONCE = 5_000
"""The same for the comparisons of these: some milliseconds."""
_MOST_COMPARISONS = 1_000_000
"""Of a namespace's pods before the rest of its flows is deferred."""


class EstablishedFlows(Protocol):
    """Handles established connections when policies change."""

    async def recheck(self, addresses: frozenset[bytes] | None) -> None:
        """The verdict on flows of these packed addresses may have changed; None: of all pods of this node."""

    async def forget(self, addresses: frozenset[bytes]) -> None:
        """End all flows of these packed addresses, which were another pod's. Raises KernelError."""

    async def run(self) -> None:
        """Runs until cancelled: processes what `recheck` queued."""

    def close(self) -> None:
        """Marked flows stay marked."""


class _EndHere(NamedTuple):
    """A pod of this node in a flow."""

    namespace: str
    address: bytes


class FlowVerdict(NamedTuple):
    """Whether a flow is allowed; if it is not, at which pod and by which policy."""

    allowed: bool
    pod: str = ""
    by: str = ""


class FlowBlocker:
    """`established: cut`. All methods are called on the event loop."""

    def __init__(
        self,
        node: str,
        evaluator: Evaluator,
        open_conntrack: Callable[[], Conntrack],
        *,
        problems: Problems,
        metrics: Metrics,
        log: Log,
        on_cut: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`on_cut` is called when flows have been marked. Raises OSError."""
        self._on_cut = on_cut
        self._node = node
        self._evaluator = evaluator
        self._problems = problems
        self._metrics = metrics
        self._log = log
        self._open_conntrack = open_conntrack
        self._table = _ConntrackWorker(open_conntrack())
        self._deferred: dict[str, set[bytes]] = {}
        """Addresses by namespace, while there is a task for it."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._queue = WorkQueue[frozenset[bytes]](
            frozenset(), frozenset.union, self._process, to_error=_kernel_error, source=CONNTRACK, problems=problems
        )

    def close(self) -> None:
        self._table.close()

    async def recheck(self, addresses: frozenset[bytes] | None) -> None:
        """Returns at once."""
        self._queue.add(local_addresses(self._evaluator, self._node) if addresses is None else addresses)

    async def forget(self, addresses: frozenset[bytes]) -> None:
        await _forget(self._open_conntrack, addresses)

    async def wait_idle(self) -> None:
        """Wait until all queued work is done."""
        await self._queue.wait_idle()
        await asyncio.gather(*self._tasks.values())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            await self._queue.run()

    async def _process(self, addresses: frozenset[bytes]) -> None:
        for namespace, deferred in (await self._evaluate(self._table, addresses, _MOST_COMPARISONS)).items():
            self._deferred.setdefault(namespace, set()).update(deferred)
            if namespace not in self._tasks:
                assert self._group is not None, "called by run"
                self._tasks[namespace] = self._group.create_task(self._process_deferred(namespace))

    async def _process_deferred(self, namespace: str) -> None:
        """All that there is of a namespace, in turns with everything else."""
        source = f"{CONNTRACK} of {namespace}"
        while addresses := self._deferred.pop(namespace, None):
            try:
                table = _ConntrackWorker(self._open_conntrack())
                try:
                    await self._evaluate(table, addresses, math.inf)
                finally:
                    table.close()
            except OSError as error:
                self._deferred.setdefault(namespace, set()).update(addresses)
                self._problems.raise_(source, _kernel_error(error))
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                self._problems.clear(source)
        del self._tasks[namespace]

    async def _evaluate(
        self, table: _ConntrackWorker, addresses: Collection[bytes], most: float
    ) -> Mapping[str, set[bytes]]:
        """Mark forbidden flows that are not marked, and unmark allowed ones that are.

        Returns the addresses of pods of which flows are left, for its namespace's would take more comparisons than `most`.
        """
        verdicts: dict[tuple[bytes, bytes, int, int], FlowVerdict | None] = {}
        comparisons: Counter[str] = Counter()
        deferred: defaultdict[str, set[bytes]] = defaultdict(set)
        since_turn = 0
        forbidden: list[ConntrackEntry] = []
        allowed: list[ConntrackEntry] = []
        reasons: Counter[FlowVerdict] = Counter()
        async for flow in table.of(addresses):
            which = (flow.client, flow.server, flow.original.protocol, flow.server_port)
            if which not in verdicts:
                costs = costs_here(self._evaluator, self._node, flow)
                late = [end for end, cost in costs if comparisons[end.namespace] + cost > most]
                if late:
                    for end in late:
                        deferred[end.namespace].add(end.address)
                    continue
                for end, cost in costs:
                    comparisons[end.namespace] += cost
                    since_turn += cost
                if since_turn > _COMPARISONS_AT_ONCE:
                    since_turn = 0
                    await asyncio.sleep(0)
                verdicts[which] = evaluate_flow(self._evaluator, self._node, flow)
            verdict = verdicts[which]
            marked = bool(flow.mark & CUT_MARK)
            if verdict is None or verdict.allowed != marked:
                continue
            if marked:
                allowed.append(flow)
            else:
                forbidden.append(flow)
                reasons[verdict] += 1
        await table.mark(forbidden, CUT_MARK)
        await table.mark(allowed, 0)
        if forbidden and self._on_cut is not None:
            await self._on_cut()
        self._metrics.flows_cut.inc(len(forbidden))
        self._metrics.flows_restored.inc(len(allowed))
        for (_, pod, by), count in reasons.items():
            self._log.info("flows cut", count=count, pod=pod, by=by)
        return deferred


class FlowUnblocker:
    """`established: keep`: established flows continue, including those that an agent with `cut` had cut."""

    def __init__(self, open_conntrack: Callable[[], Conntrack], problems: Problems) -> None:
        """Raises OSError."""
        self._problems = problems
        self._open_conntrack = open_conntrack
        self._table = _ConntrackWorker(open_conntrack())

    def close(self) -> None:
        self._table.close()

    async def recheck(self, addresses: frozenset[bytes] | None) -> None:
        """Established flows are not affected."""

    async def forget(self, addresses: frozenset[bytes]) -> None:
        await _forget(self._open_conntrack, addresses)

    async def run(self) -> None:
        while True:
            try:
                await self._table.mark(await self._table.blocked(), 0)
            except OSError as error:
                self._problems.raise_(CONNTRACK, _kernel_error(error))
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                self._problems.clear(CONNTRACK)
                return


def established_flows(
    config: AgentConfig,
    evaluator: Evaluator,
    *,
    problems: Problems,
    metrics: Metrics,
    log: Log,
    on_cut: Callable[[], Awaitable[None]] | None = None,
) -> EstablishedFlows:
    """By the setting `established`, in the caller's network namespace. Raises KernelError."""
    try:
        if config.established == "keep":
            return FlowUnblocker(Conntrack, problems)
        return FlowBlocker(
            config.node, evaluator, Conntrack, problems=problems, metrics=metrics, log=log, on_cut=on_cut
        )
    except OSError as error:
        raise _kernel_error(error) from error


class _ConntrackWorker:
    """Conntrack operations on a thread of their own, one at a time: a dump keeps the socket until all of it is read."""

    def __init__(self, conntrack: Conntrack) -> None:
        self._conntrack = conntrack
        self._thread = WorkerThread("conntrack")
        self._exclusively = asyncio.Lock()

    def close(self) -> None:
        self._thread.close()
        self._conntrack.close()

    async def of(self, addresses: Collection[bytes]) -> AsyncIterator[ConntrackEntry]:
        """In batches: there may be 100,000. No other operation until the last one is taken."""
        async with self._exclusively:
            found = self._conntrack.of(addresses)
            while batch := await self._thread.run(lambda: list(islice(found, _BATCH))):
                async for flow in yield_every(_YIELD_EVERY, batch):
                    yield flow

    async def blocked(self) -> list[ConntrackEntry]:
        async with self._exclusively:
            return await self._thread.run(lambda: list(self._conntrack.flows(EntryFilter(marked=CUT_MARK))))

    async def mark(self, flows: Sequence[ConntrackEntry], bits: int) -> None:
        """Raises the first OSError; the other flows are marked."""
        if flows:
            await self._change_flows(lambda: self._conntrack.mark(flows, bits, CUT_MARK))

    async def _change_flows(self, change: Callable[[], list[OSError | None]]) -> None:
        """Raises the first OSError; the other flows are changed."""
        async with self._exclusively:
            for error in await self._thread.run(change):
                if error is not None:
                    raise error


async def _forget(open_conntrack: Callable[[], Conntrack], addresses: Collection[bytes]) -> None:
    """The next packet of each flow is evaluated as a new one; TCP is cut, and evaluated again. Raises KernelError.

    Each time on a socket and a thread of its own: the last pod may have left 250,000 flows, and nobody else waits for them.
    """

    def end() -> None:
        with closing(open_conntrack()) as conntrack:
            flows = list(conntrack.of(addresses))
            tcp = [flow for flow in flows if flow.original.protocol == socket.IPPROTO_TCP]
            others = [flow for flow in flows if flow.original.protocol != socket.IPPROTO_TCP]
            for error in conntrack.mark(tcp, CUT_MARK, CUT_MARK) + conntrack.delete(others):
                if error is not None:
                    raise error

    try:
        await run_on_own_thread("conntrack", end)
    except OSError as error:
        raise _kernel_error(error) from error


def local_addresses(evaluator: Evaluator, node: str) -> frozenset[bytes]:
    """The packed addresses of this node's pods."""
    pods = (pod for pod in evaluator.selector_index.pods if pod is not None and pod.node == node)
    return frozenset(address for pod in pods for address in pod.addresses)


def evaluate_flow(evaluator: Evaluator, node: str, flow: ConntrackEntry) -> FlowVerdict | None:
    """Whether the rules of this node allow this flow as a new one. What the other end's node forbids is cut there.

    None if neither end is a pod of this node.
    """
    protocol: FlowProtocol = PROTOCOLS.get(flow.original.protocol, "ICMP")  # others have no ports either
    port = None if protocol == "ICMP" else flow.server_port
    ends = list(_ends_here(evaluator, node, flow))
    whole = Flow(evaluator.flow_end(flow.client), evaluator.flow_end(flow.server), protocol, port)
    for direction, pod in ends:
        decision = evaluator.decide(direction, whole)
        if not decision.allowed:
            by = str(decision.rule) if decision.rule is not None else ", ".join(map(str, decision.isolating))
            return FlowVerdict(False, str(pod.key), by)
    return FlowVerdict(True) if ends else None


def costs_here(evaluator: Evaluator, node: str, flow: ConntrackEntry) -> list[tuple[_EndHere, int]]:
    """The comparisons that evaluating a flow takes at most, by the ends whose rules they are with."""
    ids = evaluator.selector_index.pod_ids
    return [
        (
            _EndHere(pod.namespace, flow.client if direction == "egress" else flow.server),
            evaluator.class_of(ids[pod.key]).comparisons[direction],
        )
        for direction, pod in _ends_here(evaluator, node, flow)
    ]


def _ends_here(evaluator: Evaluator, node: str, flow: ConntrackEntry) -> Iterator[tuple[Direction, PodFacts]]:
    """A flow's pods on this node."""
    for direction, address in zip(DIRECTIONS, (flow.client, flow.server), strict=True):
        pod = evaluator.selector_index.owner(address)
        if pod is not None and pod.node == node:
            yield direction, pod


def _kernel_error(error: OSError) -> KernelError:
    return KernelError.from_os(
        error,
        where="established connections and policies",
        hint="this is retried; until then they continue unchanged",
    )
