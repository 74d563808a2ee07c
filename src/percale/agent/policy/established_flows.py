"""Cuts established connections that a policy change forbids, and restores them when they are allowed again.

    change ─▶ recheck(addresses) ─▶ run: their flows (conntrack, on a worker thread) ─▶ evaluate ─▶ marks ─▶ the table drops

After each commit of the kernel's rules, and once at the start, the agent passes the addresses whose connections may have another
verdict now. A flow is evaluated as the new connection that it once was: from its source before masquerade to its destination
after DNAT. Only flows with an end on this node are considered.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

from percale.agent.config.settings import AgentConfig
from percale.agent.logging import Log
from percale.agent.metrics import Metrics
from percale.agent.problems import Problems
from percale.agent.workqueue import RETRY_INTERVAL, WorkQueue
from percale.errors import KernelError
from percale.event_loop import WorkerThread, yield_every
from percale.kernel.netlink.conntrack import Conntrack, ConntrackEntry, EntryFilter
from percale.model.pod import PROTOCOLS
from percale.policy.evaluator import Evaluator
from percale.policy.rule_terms import FlowProtocol
from percale.policy.verdict import Decision, Flow, FlowEnd
from percale.render.policy.base_chains import CUT_MARK

T = TypeVar("T")

CONNTRACK = "conntrack"
"""The source of the problem."""
_BATCH = 500
"""Flows that the worker thread returns at a time."""
_YIELD_EVERY = 50
"""Flows evaluated before the event loop gets a turn."""


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
        conntrack: Conntrack,
        *,
        problems: Problems,
        metrics: Metrics,
        log: Log,
        on_cut: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`conntrack` is closed with this; `on_cut` is called when flows have been marked."""
        self._on_cut = on_cut
        self._node = node
        self._evaluator = evaluator
        self._metrics = metrics
        self._log = log
        self._table = _ConntrackWorker(conntrack)
        self._queue = WorkQueue[frozenset[bytes]](
            frozenset(), frozenset.union, self._process, to_error=_kernel_error, source=CONNTRACK, problems=problems
        )

    def close(self) -> None:
        self._table.close()

    async def recheck(self, addresses: frozenset[bytes] | None) -> None:
        """Returns at once."""
        self._queue.add(local_addresses(self._evaluator, self._node) if addresses is None else addresses)

    async def forget(self, addresses: frozenset[bytes]) -> None:
        await self._table.forget(addresses)

    async def wait_idle(self) -> None:
        """Wait until all queued work is done."""
        await self._queue.wait_idle()

    async def run(self) -> None:
        await self._queue.run()

    async def _process(self, addresses: frozenset[bytes]) -> None:
        """Mark forbidden flows that are not marked, and unmark allowed ones that are."""
        verdicts: dict[tuple[bytes, bytes, int, int], FlowVerdict | None] = {}
        forbidden: list[ConntrackEntry] = []
        allowed: list[ConntrackEntry] = []
        reasons: Counter[FlowVerdict] = Counter()
        async for flow in self._table.of(addresses):
            which = (flow.client, flow.server, flow.original.protocol, flow.server_port)
            if which not in verdicts:
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
        await self._table.mark(forbidden, CUT_MARK)
        await self._table.mark(allowed, 0)
        if forbidden and self._on_cut is not None:
            await self._on_cut()
        self._metrics.flows_cut.inc(len(forbidden))
        self._metrics.flows_restored.inc(len(allowed))
        for (_, pod, by), count in reasons.items():
            self._log.info("flows cut", count=count, pod=pod, by=by)


class FlowUnblocker:
    """`established: keep`: established flows continue, including those that an agent with `cut` had cut."""

    def __init__(self, conntrack: Conntrack, problems: Problems) -> None:
        """`conntrack` is closed with this."""
        self._problems = problems
        self._table = _ConntrackWorker(conntrack)

    def close(self) -> None:
        self._table.close()

    async def recheck(self, addresses: frozenset[bytes] | None) -> None:
        """Established flows are not affected."""

    async def forget(self, addresses: frozenset[bytes]) -> None:
        await self._table.forget(addresses)

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
        conntrack = Conntrack()
    except OSError as error:
        raise _kernel_error(error) from error
    if config.established == "keep":
        return FlowUnblocker(conntrack, problems)
    return FlowBlocker(config.node, evaluator, conntrack, problems=problems, metrics=metrics, log=log, on_cut=on_cut)


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

    async def forget(self, addresses: Collection[bytes]) -> None:
        """The next packet of each flow is evaluated as a new one; TCP is cut, and evaluated again. Raises KernelError."""
        try:
            flows = [flow async for flow in self.of(addresses)]
            await self.mark([flow for flow in flows if flow.original.protocol == socket.IPPROTO_TCP], CUT_MARK)
            others = [flow for flow in flows if flow.original.protocol != socket.IPPROTO_TCP]
            if others:
                await self._change_flows(lambda: self._conntrack.delete(others))
        except OSError as error:
            raise _kernel_error(error) from error

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


def local_addresses(evaluator: Evaluator, node: str) -> frozenset[bytes]:
    """The packed addresses of this node's pods."""
    pods = (pod for pod in evaluator.selector_index.pods if pod is not None and pod.node == node)
    return frozenset(address for pod in pods for address in pod.addresses)


def evaluate_flow(evaluator: Evaluator, node: str, flow: ConntrackEntry) -> FlowVerdict | None:
    """Whether the rules of this node allow this flow as a new one. What the other end's node forbids is cut there.

    None if neither end is a pod of this node.
    """
    protocol: FlowProtocol = PROTOCOLS.get(flow.original.protocol, "ICMP")  # others have no ports either
    source, destination = evaluator.flow_end(flow.client), evaluator.flow_end(flow.server)
    from_here, to_here = (end.pod is not None and end.pod.node == node for end in (source, destination))
    if not from_here and not to_here:
        return None
    port = None if protocol == "ICMP" else flow.server_port
    verdict = evaluator.evaluate(Flow(source, destination, protocol, port))
    if from_here and not verdict.egress.allowed:
        return _forbidden(verdict.egress, source)
    if to_here and not verdict.ingress.allowed:
        return _forbidden(verdict.ingress, destination)
    return FlowVerdict(True)


def _forbidden(decision: Decision, end: FlowEnd) -> FlowVerdict:
    by = str(decision.rule) if decision.rule is not None else ", ".join(map(str, decision.isolating))
    return FlowVerdict(False, str(end.pod.key) if end.pod is not None else "", by)


def _kernel_error(error: OSError) -> KernelError:
    return KernelError.from_os(
        error,
        where="established connections and policies",
        hint="this is retried; until then they continue unchanged",
    )
