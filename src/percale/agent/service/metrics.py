"""Service metrics, part of /metrics. `proxier.py` feeds them.

Gauges are computed at scrape time, and only for Services that changed since the last scrape: a change of one Service
needs no walk over all of them, and without scrapes nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from percale.agent.metrics import SECONDS
from percale.agent.service.sync_latency import SyncLatency
from percale.model.meta import ObjectKey
from percale.service.resolved_service import ResolvedPort, ResolvedService


class Counted(NamedTuple):
    """One Service's share. `rejected` ports have no endpoint at all, `dropped` ones no local endpoint (policy Local)."""

    services: int = 0
    served: int = 0
    rejected: int = 0
    dropped: int = 0
    endpoints: int = 0
    problems: int = 0


class ServiceMetrics(Collector):
    """All methods are called on the event loop."""

    def __init__(
        self, registry: CollectorRegistry, services: Mapping[ObjectKey, ResolvedService], latency: SyncLatency
    ) -> None:
        self._services = services
        self._sync_latency = latency
        self._changed: set[ObjectKey] = set()
        self._counted: dict[ObjectKey, Counted] = {}
        self._sums = list(Counted())
        self._events = Counter(
            "percale_service_events",
            "Watch events received from the store for Services, Endpoints and EndpointSlices.",
            ("kind",),
            registry=registry,
        )
        self._seconds = Histogram(
            "percale_service_programming_seconds",
            "Seconds from receiving a change of Services to applying it in the kernel.",
            buckets=SECONDS,
            registry=registry,
        )
        self._health_answers = Counter(
            "percale_health_answers",
            "Health check responses: healthz and livez of the node, service for health check node ports.",
            ("path", "code"),
            registry=registry,
        )
        self._forgotten = Counter(
            "percale_service_clients_forgotten",
            "Session affinity entries deleted because their endpoint is gone.",
            registry=registry,
        )
        registry.register(self)

    def received(self, kind: str, count: int = 1) -> None:
        """`count` watch events for objects of this kind."""
        self._events.labels(kind).inc(count)

    def changed(self, keys: Iterable[ObjectKey]) -> None:
        """The next scrape counts these Services again."""
        self._changed.update(keys)

    def programmed(self, seconds: float) -> None:
        """Changes were applied this long after they were received."""
        self._seconds.observe(seconds)

    def health_answered(self, path: str, code: int) -> None:
        """`path` is `healthz`, `livez`, or `service` for a health check node port."""
        self._health_answers.labels(path, str(code)).inc()

    def clients_forgotten(self, count: int) -> None:
        """Their next connection selects another endpoint."""
        self._forgotten.inc(count)

    def collect(self) -> Iterator[Metric]:
        self._count()
        sums = Counted(*self._sums)
        yield GaugeMetricFamily("percale_services", "Services proxied by this node.", sums.services)
        ports = GaugeMetricFamily(
            "percale_service_ports",
            "Service ports: served, rejected (no endpoints), or dropped for some clients (policy Local, no local endpoint).",
            labels=("result",),
        )
        for result in ("served", "rejected", "dropped"):
            ports.add_metric((result,), getattr(sums, result))
        yield ports
        yield GaugeMetricFamily(
            "percale_service_endpoints", "Endpoints used by this node, counted per port.", sums.endpoints
        )
        yield GaugeMetricFamily(
            "percale_service_problems", "Problems of Services, as listed in /status.", sums.problems
        )
        for what, when in (
            ("received", self._sync_latency.last_received),
            ("programmed", self._sync_latency.last_applied),
        ):
            name, text = (
                f"percale_service_last_{what}_timestamp_seconds",
                f"Time when a change of Services was last {what}, else 0.",
            )
            yield GaugeMetricFamily(name, text, when or 0.0)

    def _count(self) -> None:
        changed, self._changed = self._changed, set()
        for key in changed:
            old = self._counted.pop(key, Counted())
            new = counted(self._services.get(key))
            if any(new):
                self._counted[key] = new
            self._sums = [total - before + now for total, before, now in zip(self._sums, old, new, strict=True)]


def counted(service: ResolvedService | None) -> Counted:
    """None: the Service does not exist."""
    if service is None:
        return Counted()
    results = [_result(port) for port in service.ports]
    return Counted(
        services=int(bool(service.ports)),
        served=results.count("served"),
        rejected=results.count("rejected"),
        dropped=results.count("dropped"),
        endpoints=sum(map(_endpoints, service.ports)),
        problems=len(service.problems),
    )


def _result(port: ResolvedPort) -> str:
    """Both traffic policies count: dropped for internal or external clients is dropped."""
    if not port.anywhere:
        return "rejected"
    return "dropped" if isinstance(port.cluster_ip_clients, str) or isinstance(port.external_clients, str) else "served"


def _endpoints(port: ResolvedPort) -> int:
    return len({*port.records(port.cluster), *port.records(port.local)})
