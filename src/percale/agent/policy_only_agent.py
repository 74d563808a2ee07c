"""A node whose pods are somebody else's (`backend: none`): policies, and nothing but policies. Made and run by `main.py`.

    Store.watch ─▶ Enforcement ─▶ NodeTable (inet percale)    the other plugin: devices, addresses, routes, masquerade
                        │ after each edit
                        ├─▶ established connections (established_flows.py)
                        └─▶ Showing: bridged packets pass the rules too (wirings.py)

No lease, no device, no CNI configuration, no leftovers collected: what is not `table inet percale` is not ours here.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import msgspec
from msgspec.structs import replace

from percale.agent.config.settings import AgentConfig
from percale.agent.context import Ground
from percale.agent.logging import LineLog
from percale.agent.metrics import Figures
from percale.agent.nft_table import NodeTable, keeper, without_services
from percale.agent.policy.controller import Enforcement
from percale.agent.policy.established_flows import established
from percale.agent.policy.foreign_pods import BRIDGES, Showing
from percale.agent.reporter import Report
from percale.agent.status import Pod, Status
from percale.errors import KernelError
from percale.policy.pod_facts import PodFacts


class PolicyNode:
    """Made once per process; `run` lives until it is cancelled."""

    def __init__(self, config: AgentConfig, log: LineLog) -> None:
        """Raises KernelError, BadConfig."""
        self._ground = ground = Ground(config, log, on_refused=self._refused)
        kept = keeper(host_ports=False, narrate=ground.narrate, hearing=ground.hearing)
        self._table = NodeTable(kept, ground.problems, ground.events)
        self._enforcement = Enforcement(
            config.node, ground.store, self._table, problems=ground.problems, reconsider=self._edited
        )
        evaluator = self._enforcement.evaluator
        self._established = established(config, evaluator, problems=ground.problems, metrics=ground.metrics, log=log)
        self._showing = Showing(lambda: self._enforcement.table.judged, ground.reconciler, ground.problems, log)
        self._report = PolicyReport(config.node, ground, self._enforcement)

    async def run(self) -> None:
        """Raises the PercaleError that makes going on impossible."""
        async with self._ground.up(self._report) as (downs, duties):
            downs.callback(self._established.close)
            await without_services()
            duties.create_task(self._enforcement.run(), name="policies")
            duties.create_task(self._table.run(), name="table")
            duties.create_task(self._established.run(), name="established")
            await self._table.in_force.wait()
            await self._edited(None)
            with suppress(KernelError):  # it is in the status, and tried again
                await self._ground.reconciler.settled(BRIDGES)
            self._report.ready.set()
            self._ground.say_ready(self._report)

    async def _edited(self, addresses: frozenset[bytes] | None) -> None:
        """The kernel's rules are others now."""
        self._showing.look()
        await self._established.reconsider(addresses)

    def _refused(self, source: str, error: KernelError) -> None:
        self._ground.problems.record(f"kernel {source}", error)


class PolicyReport(Report):
    """What there is to say without a network of our own."""

    def __init__(self, node: str, ground: Ground, enforcement: Enforcement) -> None:
        super().__init__(node, ground.metrics, ground.problems, ground.reconciler)
        self._name = node
        self._enforcement = enforcement

    def _pods(self) -> list[PodFacts]:
        """This node's, judged or not."""
        pods = self._enforcement.evaluator.members.pods
        return [pod for pod in pods if pod is not None and pod.node == self._name and pod.addresses]

    def summary(self) -> str:
        return f"policies only, {len(self._pods())} pods"

    def figures(self) -> Figures:
        return replace(super().figures(), pods=len(self._pods()))

    def status(self) -> Status:
        pods = (
            Pod(
                container="",
                ifname="",
                addresses=tuple(str(ip_address(address)) for address in pod.addresses),
                pod=str(pod.key),
            )
            for pod in self._pods()
        )
        return msgspec.structs.replace(
            super().status(), backend="none", pods=tuple(sorted(pods, key=lambda pod: pod.pod or ""))
        )
