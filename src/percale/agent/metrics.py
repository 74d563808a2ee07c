"""The agent's Prometheus metrics, in a registry of their own; `http/server.py` serves them at /metrics."""

from __future__ import annotations

from collections.abc import Sequence

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

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The buckets of all histograms."""

_VERBS = frozenset({"ADD", "DEL", "CHECK", "STATUS", "GC"})


class GaugeValues(Struct, frozen=True):
    """Values sampled at scrape time."""

    ready: bool
    peers: int
    unreached: int
    pods: int
    problems: int
    addresses: tuple[Addresses, ...]


class Metrics:
    """Counters are incremented where things happen; gauges are sampled at scrape time."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"percale_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"percale_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"percale_{name}", text, labels, buckets=SECONDS, registry=self.registry)

        ProcessCollector(registry=self.registry)
        gauge("build_info", "Version of the running agent.", "version").labels(__version__).set(1)
        self._ready = gauge("ready", "1 when the agent serves CNI requests, else 0.")
        self._peers = gauge("peers", "Peer nodes whose subnets are reachable.")
        self._unreached = gauge("peers_unreached", "Peer nodes whose subnets are not reachable.")
        self._pods = gauge("pods", "Pod interfaces on this node.")
        self._problems = gauge("problems", "Current problems, as listed in /status.")
        self._used = gauge("addresses_used", "Pod addresses in use.", "subnet")
        self._free = gauge("addresses_free", "Free pod addresses.", "subnet")
        self.store_events = counter("store_events", "Watch events received from the store.", "type")
        self._cni_requests = counter("cni_requests", "CNI requests from the container runtime.", "verb", "result")
        self._cni_seconds = histogram("cni_seconds", "Duration of CNI requests in seconds.", "verb")
        self._batches = counter("kernel_batches", "Batches of changes applied to the kernel.")
        self._changes = counter("kernel_changes", "Changes applied to the kernel.")
        self._refused = counter("kernel_refused", "Changes rejected by the kernel.")
        self.flows_cut = counter("flows_cut", "Established connections blocked by a policy change.")
        self.flows_restored = counter(
            "flows_restored", "Blocked connections unblocked because policies allow them again."
        )
        self.flows_forgotten = counter(
            "flows_forgotten", "Conntrack entries of Services and host ports deleted because they lead to no endpoint."
        )
        self._batch_seconds = histogram("kernel_batch_seconds", "Duration of kernel batches in seconds.")

    def cni_answered(self, verb: str, code: int, seconds: float) -> None:
        """`code` is the plugin's exit code."""
        known = verb if verb in _VERBS else "other"
        self._cni_requests.labels(known, "ok" if code == 0 else "refused").inc()
        self._cni_seconds.labels(known).observe(seconds)

    def batch_applied(self, seconds: float, results: Sequence[OSError | None]) -> None:
        """The reconciler has applied a batch of changes."""
        self._batch_seconds.observe(seconds)
        self._batches.inc()
        self._changes.inc(len(results))
        self._refused.inc(sum(result is not None for result in results))

    def render(self, now: GaugeValues) -> bytes:
        """The exposition text."""
        self._ready.set(now.ready)
        self._peers.set(now.peers)
        self._unreached.set(now.unreached)
        self._pods.set(now.pods)
        self._problems.set(now.problems)
        for addresses in now.addresses:
            self._used.labels(addresses.subnet).set(addresses.used)
            self._free.labels(addresses.subnet).set(addresses.free)
        return self.exposition()

    def exposition(self) -> bytes:
        """The text, with gauges as they were last set."""
        return generate_latest(self.registry)
