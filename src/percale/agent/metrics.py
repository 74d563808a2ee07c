"""The agent's figures for Prometheus, in a registry of their own. `node_agent.py` counts, `server.py` sends them at /metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from percale import __version__
from percale.agent.status import Addresses
from percale.kernel.protocol import Change, Driver, KernelEvent, Underlay
from percale.render.objects import KernelObject, Key, Sysctl

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The buckets of all histograms."""

_VERBS = frozenset({"ADD", "DEL", "CHECK", "STATUS", "GC"})


class Figures(Struct, frozen=True):
    """How much there is now."""

    ready: bool
    peers: int
    unreached: int
    pods: int
    troubles: int
    addresses: tuple[Addresses, ...]


class Metrics:
    """Counters are counted where things happen; what is a state is asked for when somebody reads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"percale_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"percale_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"percale_{name}", text, labels, buckets=SECONDS, registry=self.registry)

        ProcessCollector(registry=self.registry)
        gauge("build_info", "The version that runs.", "version").labels(__version__).set(1)
        self._ready = gauge("ready", "1 when pods can be served.")
        self._peers = gauge("peers", "Other nodes whose subnets are reached.")
        self._unreached = gauge("peers_unreached", "Other nodes whose subnets are not reached.")
        self._pods = gauge("pods", "Pod interfaces on this node.")
        self._troubles = gauge("troubles", "What is wrong now.")
        self._used = gauge("addresses_used", "Pod addresses in use.", "subnet")
        self._free = gauge("addresses_free", "Pod addresses left.", "subnet")
        self.store_events = counter("store_events", "Changes that the store told.", "type")
        self._cni_requests = counter("cni_requests", "Requests of the container runtime.", "verb", "result")
        self._cni_seconds = histogram("cni_seconds", "How long a request of the container runtime took.", "verb")
        self.batches = counter("kernel_batches", "Batches of changes sent to the kernel.")
        self.changes = counter("kernel_changes", "Changes sent to the kernel.")
        self.refused = counter("kernel_refused", "Changes that the kernel refused.")
        self.flows_cut = counter("flows_cut", "Established connections that a policy forbade.")
        self.flows_restored = counter("flows_restored", "Cut connections that policies allow again.")
        self.flows_forgotten = counter("flows_forgotten", "Datagram flows to endpoints that are gone.")
        self.batch_seconds = histogram("kernel_batch_seconds", "How long a batch of kernel changes took.")

    def cni_answered(self, verb: str, code: int, seconds: float) -> None:
        """A request of the container runtime; `code` is the plugin's exit code."""
        known = verb if verb in _VERBS else "other"
        self._cni_requests.labels(known, "ok" if code == 0 else "refused").inc()
        self._cni_seconds.labels(known).observe(seconds)

    def render(self, now: Figures) -> bytes:
        """The text that Prometheus reads."""
        self._ready.set(now.ready)
        self._peers.set(now.peers)
        self._unreached.set(now.unreached)
        self._pods.set(now.pods)
        self._troubles.set(now.troubles)
        for addresses in now.addresses:
            self._used.labels(addresses.subnet).set(addresses.used)
            self._free.labels(addresses.subnet).set(addresses.free)
        return generate_latest(self.registry)


class MeasuredDriver:
    """A driver whose batches are counted and timed."""

    def __init__(self, driver: Driver, metrics: Metrics) -> None:
        self._driver = driver
        self._metrics = metrics

    def read(self) -> dict[Key, KernelObject]:
        return self._driver.read()

    def apply(self, changes: Sequence[Change]) -> Sequence[OSError | None]:
        began = time.perf_counter()
        results = self._driver.apply(changes)
        self._metrics.batch_seconds.observe(time.perf_counter() - began)
        self._metrics.batches.inc()
        self._metrics.changes.inc(len(changes))
        self._metrics.refused.inc(sum(result is not None for result in results))
        return results

    def underlay(self) -> Underlay:
        return self._driver.underlay()

    def changed_sysctls(self, settings: Sequence[Sysctl]) -> Sequence[Sysctl]:
        return self._driver.changed_sysctls(settings)

    def follow(self, on_events: Callable[[Iterable[KernelEvent]], None]) -> None:
        self._driver.follow(on_events)

    def close(self) -> None:
        self._driver.close()
