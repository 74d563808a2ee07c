"""Inspects how another plugin attached the pods that have policies here, by the route to each address.

    pods with policies, underlay ─▶ inspect_pods ─┬─ on a bridge ─▶ bridged packets pass our rules (br_netfilter): "node/bridges"
                                                  └─ no route ────▶ a problem: their packets do not pass this node's rules

Nothing of the other plugin is changed: the two sysctls are the kernel's own, and kube-proxy needs them too.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network

from msgspec import Struct

from percale.agent.logging import Log
from percale.agent.problems import Problems
from percale.errors import KernelError
from percale.kernel.protocol import HostRoute, Underlay
from percale.kernel.reconciler.reconciler import Reconciler
from percale.model.addresses import IPAddress
from percale.policy.pod_facts import PodFacts
from percale.render.network.pod_veth import bridge_nf_call

BRIDGES, WIRINGS = "node/bridges", "inspect_pods"
"""The source of the desired sysctls, and of the problem."""


class PodInspection(Struct, frozen=True):
    """Where some pods are attached."""

    bridges: frozenset[tuple[str, int]]
    """Bridges with pods behind them, each with the pods' IP version."""
    unrouted: tuple[tuple[str, IPAddress], ...]
    """Running pods, by namespace/name, without a route on this node."""


def inspect_pods(pods: Iterable[PodFacts], underlay: Underlay) -> PodInspection:
    """Look up each address in the routes."""
    routes = _Routes(underlay.routes)
    masters = {interface.master for interface in underlay.interfaces}
    bridges: set[tuple[str, int]] = set()
    unrouted: list[tuple[str, IPAddress]] = []
    for pod in pods:
        for address in map(ip_address, pod.addresses):
            device = routes.device(address)
            if device in masters and device is not None:
                bridges.add((device, address.version))
            elif device is None and _is_stable(pod):
                unrouted.append((str(pod.key), address))
    return PodInspection(frozenset(bridges), tuple(sorted(unrouted, key=str)))


def _is_stable(pod: PodFacts) -> bool:
    """Running and not terminating: it must have a route."""
    _, running, staying, _ = pod.rank
    return running and staying


class _Routes:
    """Devices by address; the longest prefix wins. Routes via a gateway, and default routes, do not lead to a local pod."""

    def __init__(self, routes: Iterable[HostRoute]) -> None:
        direct = sorted((route for route in routes if route.via is None), key=lambda route: -route.metric)
        self._devices = {route.dst: route.dev for route in direct if route.dst.prefixlen}
        self._lengths = sorted({(dst.version, dst.prefixlen) for dst in self._devices}, reverse=True)

    def device(self, address: IPAddress) -> str | None:
        for version, length in self._lengths:
            if version == address.version:
                device = self._devices.get(ip_network((address, length), strict=False))
                if device is not None:
                    return device
        return None


class ForeignPodMonitor:
    """Declares the sysctls that the pods need and raises problems. All methods are called on the event loop."""

    def __init__(
        self, pods: Callable[[], Iterable[PodFacts]], reconciler: Reconciler, problems: Problems, log: Log
    ) -> None:
        """`pods` are those with policies on this node, as of now."""
        self._pods = pods
        self._reconciler = reconciler
        self._problems = problems
        self._log = log
        self._bridges: frozenset[tuple[str, int]] = frozenset()
        reconciler.on_underlay(lambda _underlay: self.refresh())

    def refresh(self) -> None:
        """Pods, devices or routes may have changed. A known bridge stays declared."""
        found = inspect_pods(self._pods(), self._reconciler.underlay)
        if new := found.bridges - self._bridges:
            self._bridges |= new
            self._reconciler.declare(BRIDGES, bridge_nf_call(version for _, version in self._bridges))
            self._log.info("bridged packets are filtered", device=" ".join(sorted({device for device, _ in new})))
        if found.unrouted:
            self._problems.raise_(WIRINGS, _unrouted(found.unrouted))
        else:
            self._problems.clear(WIRINGS)


def _unrouted(pods: tuple[tuple[str, IPAddress], ...]) -> KernelError:
    (name, address), *others = pods
    more = f" and {len(others)} more" if others else ""
    return KernelError(
        f"no device of this node leads to {address}{more}: policies do not reach it",
        errno=errno.EHOSTUNREACH,
        where=f"pod {name}",
        hint="is spec.nodeName this node? Pods behind macvlan or SR-IOV pass no rules of their node",
    )
