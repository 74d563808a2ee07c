"""Pods wired by this agent: waits for network, interface and subnet, then runs the node's network and Services.

    network ─▶ interface ─▶ subnet ─▶ NodeNetwork: device, peers, pods ─▶ garbage collection ─▶ CNI configuration

A `PodNetworking` of `node_agent.py`. It waits for an unavailable store or interface; the kernel keeps its state meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from percale.agent.config.loader import listen_ports
from percale.agent.context import AgentContext
from percale.agent.network import ip_pools
from percale.agent.network.backend_transition import resume
from percale.agent.network.fastpath import Fastpath
from percale.agent.network.net_conf import configured_network
from percale.agent.network.node_condition import NodeCondition
from percale.agent.network.node_network import NodeNetwork
from percale.agent.network.subnet_manager import acquire_subnets
from percale.agent.policy.controller import PolicyController
from percale.agent.reporter import StatusReporter
from percale.agent.service.conntrack_cleanup import conntrack_cleaner
from percale.agent.service.host_ports import HostPorts
from percale.agent.service.node_services import start_services
from percale.agent.state import PODS, NodeState
from percale.agent.table_sections import NodeTable
from percale.backend.registry import make_backend
from percale.backend.state_dir import load_state
from percale.cni import conflist
from percale.cni.records import Records
from percale.kernel.nftables.text_table import TextTable
from percale.model.node import Node
from percale.model.subnet_lease import SubnetLease
from percale.render.network import fastpath
from percale.service import resolver


class OwnNetworking:
    """All methods are called on the event loop."""

    def __init__(
        self,
        context: AgentContext,
        table: NodeTable,
        policies: PolicyController,
        reporter: StatusReporter,
    ) -> None:
        """`table` gets the host ports. Raises StateError, KernelError."""
        config = context.config
        self._context = context
        self._policies = policies
        self._reporter = reporter
        self._state = NodeState(Path(config.stateDir))
        self._records = records = Records(Path(config.stateDir) / PODS)
        for pod, addresses in records.pod_addresses():
            policies.attach(pod, addresses)
        self._leases = context.informer.subscribe(SubnetLease)
        self._condition = NodeCondition(config.node, context.store, context.informer.subscribe(Node), context.problems)
        self._services = context.informer.subscribe(*resolver.KINDS) if config.services.enabled else None
        self._pool_changes = context.informer.subscribe(*ip_pools.KINDS) if config.ipPools else None
        self._conntrack_cleaner = conntrack_cleaner(context.problems, context.metrics)
        self._host_ports = HostPorts(table, records.attachments.values(), self._conntrack_cleaner, context.problems)
        for setting, address in listen_ports(config).items():
            self._host_ports.reserve(setting, [("TCP", address)])
        self._fastpath = Fastpath(
            TextTable(fastpath.TABLE, log_command=context.log_command, subscriptions=context.subscriptions),
            log=context.log,
            enabled=config.shortcut == "auto",
        )

    async def start(self, exit_stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> Callable[[], Awaitable[None]]:
        """Wait for network, interface and subnet; then declare all desired state and accept CNI requests.

        Raises BadNetworkConfig, BadConfig, AddressRefused, NetworkFull, StateError, KernelError.
        """
        exit_stack.callback(self._conntrack_cleaner.close)
        context = self._context
        network = await configured_network(context.config, context.store, context.problems)
        backend = make_backend(network)
        await load_state(backend, Path(context.config.stateDir))
        resume(backend, self._state)
        subnets = await acquire_subnets(context, network, backend, self._state)
        services_attempted = await start_services(
            context,
            network,
            subnets.local,
            self._services,
            tasks,
            policies=self._policies,
            host_ports=self._host_ports,
            conntrack_cleaner=self._conntrack_cleaner,
        )
        tasks.create_task(self._conntrack_cleaner.run(), name="flows")
        node = NodeNetwork(
            context,
            network,
            backend,
            subnets=subnets,
            records=self._records,
            host_ports=self._host_ports,
            fastpath=self._fastpath,
            hooks=(self._policies, self._host_ports),
            pod_of=self._policies.address_owner,
            ready=self._reporter.unready,
            state=self._state,
            pool_changes=self._pool_changes,
        )
        self._reporter.source = node
        tasks.create_task(self._fastpath.run(node.fastpath_config), name="shortcut")
        await node.start(exit_stack, tasks, self._leases)
        tasks.create_task(self._condition.run(), name="node condition")

        async def wait_applied() -> None:
            await node.wait_applied()
            await services_attempted.wait()

        return wait_applied

    async def flush(self) -> None:
        """Flows were blocked: their packets take the slow path again."""
        await self._fastpath.flush()

    def on_policies_applied(self) -> None:
        """Our own pods' wiring does not depend on policies."""

    def on_ready(self) -> None:
        """Let the container runtime and the cluster know: pods can be added."""
        self._condition.ready.set()
        conflist.install(self._context.config.cni)
