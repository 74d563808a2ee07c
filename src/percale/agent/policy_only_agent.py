"""Node agent for pods wired by another plugin (`backend: none`): enforces policies only. Made and run by `main.py`.

    Store.watch ─▶ PolicyController ─▶ NodeTable (inet percale)    the other plugin: devices, addresses, routes, masquerade
                        │ after each commit
                        ├─▶ established connections (established_flows.py)
                        └─▶ ForeignPodMonitor: bridged packets pass the rules too (foreign_pods.py)

No lease, no device, no CNI configuration, no garbage collection: only `table inet percale` is ours here.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import msgspec
from msgspec.structs import replace

from percale.agent.config.settings import AgentConfig
from percale.agent.context import AgentContext
from percale.agent.logging import LineLog
from percale.agent.metrics import GaugeValues
from percale.agent.nft_table import NodeTable, delete_service_table
from percale.agent.policy.controller import PolicyController
from percale.agent.policy.established_flows import established_flows
from percale.agent.policy.foreign_pods import BRIDGES, ForeignPodMonitor
from percale.agent.reporter import StatusReporter
from percale.agent.status import Pod, Status
from percale.errors import KernelError
from percale.policy.pod_facts import PodFacts
from percale.render.policy import base_chains as policy_chains


class PolicyOnlyAgent:
    """One per process; `run` until cancelled."""

    def __init__(self, config: AgentConfig, log: LineLog) -> None:
        """Raises KernelError, BadConfig."""
        self._context = context = AgentContext(config, log, on_rejected=self._rejected)
        self._table = NodeTable(context.nft_table(policy_chains.TABLE_SPEC), context.problems, context.events)
        self._policy_controller = PolicyController(
            config.node, context.informer, self._table, problems=context.problems, recheck=self._on_policies_applied
        )
        evaluator = self._policy_controller.evaluator
        self._established = established_flows(
            config, evaluator, problems=context.problems, metrics=context.metrics, log=log
        )
        self._foreign_pods = ForeignPodMonitor(
            lambda: self._policy_controller.table.selected_pods, context.reconciler, context.problems, log
        )
        self._reporter = PolicyOnlyReporter(config.node, context, self._policy_controller)

    async def run(self) -> None:
        """Raises a PercaleError if the agent cannot go on."""
        async with self._context.running(self._reporter) as (exit_stack, tasks):
            exit_stack.callback(self._established.close)
            await delete_service_table()
            tasks.create_task(self._policy_controller.run(), name="policies")
            tasks.create_task(self._table.run(), name="table")
            tasks.create_task(self._established.run(), name="established_flows")
            await self._table.applied.wait()
            await self._on_policies_applied(None)
            with suppress(KernelError):  # it is in the status, and retried
                await self._context.reconciler.wait_applied(BRIDGES)
            self._reporter.ready.set()
            self._context.announce_ready(self._reporter)

    async def _on_policies_applied(self, addresses: frozenset[bytes] | None) -> None:
        """The kernel holds changed rules."""
        self._foreign_pods.refresh()
        await self._established.recheck(addresses)

    def _rejected(self, source: str, error: KernelError) -> None:
        self._context.problems.record(f"kernel {source}", error)


class PolicyOnlyReporter(StatusReporter):
    """The status without a network of our own."""

    def __init__(self, node: str, context: AgentContext, policy_controller: PolicyController) -> None:
        super().__init__(node, context.metrics, context.problems, context.reconciler)
        self._name = node
        self._policy_controller = policy_controller

    def _pods(self) -> list[PodFacts]:
        """Pods of this node, with or without policies."""
        pods = self._policy_controller.evaluator.selector_index.pods
        return [pod for pod in pods if pod is not None and pod.node == self._name and pod.addresses]

    def summary(self) -> str:
        return f"policies only, {len(self._pods())} pods"

    def gauge_values(self) -> GaugeValues:
        return replace(super().gauge_values(), pods=len(self._pods()))

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
