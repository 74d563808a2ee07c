"""Starts the Services of a node with a network of its own: their table, the proxier and its ports."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from percale.agent.config.loader import service_config
from percale.agent.context import AgentContext
from percale.agent.http.listener import Page, metrics_page
from percale.agent.informer import Subscription
from percale.agent.policy.controller import PolicyController
from percale.agent.service.conntrack_cleanup import ConntrackCleaner
from percale.agent.service.host_ports import HostPorts
from percale.agent.service.needed_servers import needed_servers
from percale.agent.service.proxier import ServiceProxier
from percale.agent.service.proxier_health import serve_when_free
from percale.agent.table_sections import SERVICE_BYTES, NodeTable, delete_service_table
from percale.backend.protocol import LocalNode
from percale.kernel import sysctl
from percale.model.ip_family import Family
from percale.model.netconf import NetworkConfig
from percale.render.objects import Sysctl
from percale.render.service import base_chains

_CONNTRACK = "conntrack"
_CONNTRACK_TIMEOUTS = (
    Sysctl("net/netfilter/nf_conntrack_tcp_timeout_established", "86400"),
    Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "3600"),
)
"""Seconds, as kube-proxy's --conntrack-tcp-timeout-…: idle connections to Services stay, and so do half closed ones."""


async def start_services(
    context: AgentContext,
    network: NetworkConfig,
    local: LocalNode,
    subscription: Subscription | None,
    tasks: asyncio.TaskGroup,
    *,
    policies: PolicyController,
    host_ports: HostPorts,
    conntrack_cleaner: ConntrackCleaner,
) -> asyncio.Event:
    """Returns what is set after the first attempt to load the table: a Service that the kernel rejects blocks nothing.

    Without a subscription Services are disabled: the table that a previous run may have left is deleted. Raises KernelError.
    """
    config = context.config
    if subscription is None:
        await delete_service_table()
        nothing_to_do = asyncio.Event()
        nothing_to_do.set()
        return nothing_to_do
    nft = context.nft_table(base_chains.TABLE_SPEC, most_bytes=SERVICE_BYTES)
    table = NodeTable(nft, context.problems, context.events, base_chains.TABLE)
    proxier = ServiceProxier(
        replace(
            service_config(config, network),
            servers=needed_servers(context.store),
            strict_families=_strict_families(local),
        ),
        subscription,
        table,
        conntrack_cleaner=conntrack_cleaner,
        problems=context.problems,
        events=context.events,
        registry=context.metrics.registry,
        count_interval=config.services.leastConnInterval,
        local_pods=lambda: policies.local_pods,
        on_health_check_ports=lambda ports: host_ports.reserve("a health check", (("TCP", port) for port in ports)),
    )
    host_ports.set_service_endpoints(proxier.serving)
    tasks.create_task(proxier.run(), name="services")
    tasks.create_task(table.run(), name="service table")
    context.reconciler.declare(_CONNTRACK, _CONNTRACK_TIMEOUTS)
    metrics = {"/proxyMode": _proxy_mode, "/metrics": lambda: metrics_page(context.metrics.exposition())}
    for setting, address, pages in (
        ("services.healthz", config.services.healthz, proxier.health.pages),
        ("services.metrics", config.services.metrics, metrics),
    ):
        if address is not None:
            tasks.create_task(serve_when_free(address, setting, pages, context.problems), name=setting)
    return table.attempted


def _strict_families(local: LocalNode) -> frozenset[Family]:
    """IPv6 has no such setting."""
    ipv4 = local.families.get(Family.IPV4)
    strict = ipv4 is not None and sysctl.reverse_path_filter(ipv4.interface.name) == sysctl.STRICT
    return frozenset({Family.IPV4}) if strict else frozenset()


def _proxy_mode() -> Page:
    """What scripts and the conformance tests ask kube-proxy for."""
    return Page(b"nftables")
