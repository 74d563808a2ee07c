"""Pods wired by another plugin (`backend: none`): only policies are ours. A `PodNetworking` of `node_agent.py`.

The other plugin owns devices, addresses, routes and masquerading. No lease, no CNI configuration, no garbage collection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from ipaddress import ip_address

from percale.agent.context import AgentContext
from percale.agent.policy.controller import PolicyController
from percale.agent.policy.foreign_pods import BRIDGES, ForeignPodMonitor
from percale.agent.reporter import NetworkStatus, StatusReporter
from percale.agent.status import Addresses, Pod
from percale.agent.table_sections import delete_service_table
from percale.counted import counted
from percale.errors import KernelError
from percale.policy.pod_facts import PodFacts


class ForeignNetworking:
    """A `PodNetworking` and a `StatusSource`. All methods are called on the event loop."""

    def __init__(self, context: AgentContext, policies: PolicyController, reporter: StatusReporter) -> None:
        self._node = context.config.node
        self._policies = policies
        self._reconciler = context.reconciler
        self._monitor = ForeignPodMonitor(
            lambda: policies.renderer.selected_pods, context.reconciler, context.problems, context.log
        )
        self._reporter = reporter

    async def start(self, exit_stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> Callable[[], Awaitable[None]]:
        """Remove what a network of our own may have left."""
        self._reporter.source = self
        await delete_service_table()
        return self._wait_applied

    async def flush(self) -> None:
        """Packets take no fast path here."""

    def on_policies_applied(self) -> None:
        """Bridged packets of pods with policies pass the rules too."""
        self._monitor.refresh()

    async def _wait_applied(self) -> None:
        """Wait for the bridges' sysctls. A rejected one is in the status, and retried."""
        self._monitor.refresh()
        with suppress(KernelError):
            await self._reconciler.wait_applied(BRIDGES)

    def on_ready(self) -> None:
        """The other plugin has its own configuration."""

    # Status

    def _pods(self) -> list[PodFacts]:
        """Pods of this node, with or without policies."""
        pods = self._policies.evaluator.selector_index.pods
        return [pod for pod in pods if pod is not None and pod.node == self._node and pod.addresses]

    def summary(self) -> str:
        """`policies only, 3 pods`."""
        return f"policies only, {counted(self.pod_count(), 'pod')}"

    def network_status(self) -> NetworkStatus:
        """The pods, by name."""
        pods = (
            Pod("", "", tuple(str(ip_address(address)) for address in pod.addresses), str(pod.key))
            for pod in self._pods()
        )
        return NetworkStatus(backend="none", pods=tuple(sorted(pods, key=lambda pod: pod.pod or "")))

    def peer_counts(self) -> tuple[int, int]:
        """None: other nodes are the other plugin's business."""
        return 0, 0

    def pod_count(self) -> int:
        """Those with addresses."""
        return len(self._pods())

    def addresses(self) -> tuple[Addresses, ...]:
        """None: the other plugin assigns them."""
        return ()
