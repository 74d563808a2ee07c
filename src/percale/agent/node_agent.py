"""The agent of one node: policies, and the pods' network that is ours or another plugin's. Made and run by `main.py`.

    Store ─ Informer ─┬─▶ PolicyController ─▶ NodeTable (inet percale) ─ after each commit ─▶ established connections
                      └─▶ PodNetworking: OwnNetworking (subnet, peers, pods, Services) or ForeignNetworking (`backend: none`)

                                                            http/server: /readyz /metrics /status ◀─ StatusReporter

Shutdown keeps all kernel state: the data path goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Protocol

from percale.agent.config.settings import AgentConfig
from percale.agent.context import AgentContext
from percale.agent.logging import LineLog
from percale.agent.network.foreign_networking import ForeignNetworking
from percale.agent.network.own_networking import OwnNetworking
from percale.agent.policy.controller import PolicyController
from percale.agent.policy.established_flows import established_flows
from percale.agent.reporter import StatusReporter
from percale.agent.table_sections import NodeTable
from percale.render.policy import base_chains as policy_base
from percale.render.service import host_ports


class PodNetworking(Protocol):
    """Who wires this node's pods."""

    async def start(self, exit_stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> Callable[[], Awaitable[None]]:
        """Declare all desired state; returns what waits until the kernel holds it. Raises PercaleError."""

    async def flush(self) -> None:
        """Established flows were blocked: no shortcut may carry them on."""

    def on_policies_applied(self) -> None:
        """The kernel holds changed rules."""

    def on_ready(self) -> None:
        """The node is ready for pods."""


class NodeAgent:
    """One per process; `run` until cancelled."""

    def __init__(self, config: AgentConfig, log: LineLog) -> None:
        """Raises StateError, KernelError, BadConfig."""
        self._context = context = AgentContext(config, log)
        self._reporter = StatusReporter(config.node, context.metrics, context.problems, context.reconciler)
        own = config.backend != "none"
        spec = host_ports.TABLE_SPEC if own else policy_base.TABLE_SPEC
        self._table = NodeTable(context.nft_table(spec), context.problems, context.events)
        self._policies = PolicyController(
            config.node,
            context.informer,
            self._table,
            problems=context.problems,
            warn=context.events.warn,
            recheck=self._recheck,
            forget=self._forget,
            on_local_pods=self._table.request_sync,
        )
        self._pods: PodNetworking = (
            OwnNetworking(context, self._table, self._policies, self._reporter)
            if own
            else ForeignNetworking(context, self._policies, self._reporter)
        )
        self._established = established_flows(
            config,
            self._policies.evaluator,
            problems=context.problems,
            metrics=context.metrics,
            log=log,
            on_cut=self._pods.flush,
        )

    async def run(self) -> None:
        """Raises a PercaleError if the agent cannot go on."""
        async with self._context.running(self._reporter) as (exit_stack, tasks):
            exit_stack.callback(self._established.close)
            tasks.create_task(self._policies.run(), name="policies")
            tasks.create_task(self._established.run(), name="established flows")
            wait_applied = await self._pods.start(exit_stack, tasks)
            tasks.create_task(self._table.run(), name="table")
            await self._table.applied.wait()
            await wait_applied()
            await self._recheck(None)  # a previous run may have ended between its commit and the cuts that followed it
            self._reporter.ready.set()
            self._pods.on_ready()
            self._context.announce_ready(self._reporter.source.summary())

    async def _forget(self, addresses: frozenset[bytes]) -> None:
        await self._established.forget(addresses)

    async def _recheck(self, addresses: frozenset[bytes] | None) -> None:
        """The kernel's rules changed: evaluate established connections of these addresses (None: all) again."""
        self._pods.on_policies_applied()
        await self._established.recheck(addresses)
