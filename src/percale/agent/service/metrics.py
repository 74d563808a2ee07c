"""The agent's figures of Services, beside the others at /metrics. `proxier.py` makes and feeds it.

What a Service adds to the sums is counted when somebody reads, and only for Services that changed since: a change of one
Service costs no walk over all, and an agent whose figures nobody reads counts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from percale.agent.metrics import SECONDS
from percale.agent.service.sync_latency import Progress
from percale.model.meta import ObjectKey
from percale.service.resolved_service import ResolvedPort, ResolvedService


class Counted(NamedTuple):
    """What one Service adds. Of its ports, `rejected` have no endpoint anywhere, `dropped` none here for a policy Local."""

    services: int = 0
    served: int = 0
    rejected: int = 0
    dropped: int = 0
    endpoints: int = 0
    problems: int = 0


class ServiceMetrics(Collector):
    """All methods are called on the event loop."""

    def __init__(
        self, registry: CollectorRegistry, services: Mapping[ObjectKey, ResolvedService], progress: Progress
    ) -> None:
        self._services = services
        self._progress = progress
        self._changed: set[ObjectKey] = set()
        self._counted: dict[ObjectKey, Counted] = {}
        self._sums = list(Counted())
        self._events = Counter(
            "percale_service_events",
            "Changes that the store told of what Services are made of.",
            ("kind",),
            registry=registry,
        )
        self._seconds = Histogram(
            "percale_service_programming_seconds",
            "From a change of Services in the store until the kernel has it.",
            buckets=SECONDS,
            registry=registry,
        )
        self._health_answers = Counter(
            "percale_health_answers",
            "Answers to load balancers: healthz and livez of the node, service for health check node ports.",
            ("path", "code"),
            registry=registry,
        )
        self._forgotten = Counter(
            "percale_service_clients_forgotten",
            "Clients with session affinity whose endpoint is gone.",
            registry=registry,
        )
        registry.register(self)

    def told(self, kind: str, count: int = 1) -> None:
        """The store told of so many objects of a kind."""
        self._events.labels(kind).inc(count)

    def changed(self, keys: Iterable[ObjectKey]) -> None:
        """These Services mean something else now."""
        self._changed.update(keys)

    def programmed(self, seconds: float) -> None:
        """The kernel has what was told so long ago."""
        self._seconds.observe(seconds)

    def health_answered(self, path: str, code: int) -> None:
        """Somebody asked for `healthz`, `livez`, or at a Service's port (`service`)."""
        self._health_answers.labels(path, str(code)).inc()

    def clients_forgotten(self, count: int) -> None:
        """So many choose their endpoint anew."""
        self._forgotten.inc(count)

    def collect(self) -> Iterator[Metric]:
        """What is a state, as of now."""
        self._count()
        sums = Counted(*self._sums)
        yield GaugeMetricFamily("percale_services", "Services that are balanced here.", sums.services)
        ports = GaugeMetricFamily(
            "percale_service_ports",
            "Their ports: served, rejected (no endpoint anywhere), or dropped for some (policy Local, no endpoint here).",
            labels=("result",),
        )
        for result in ("served", "rejected", "dropped"):
            ports.add_metric((result,), getattr(sums, result))
        yield ports
        yield GaugeMetricFamily("percale_service_endpoints", "Endpoints used from here, by port.", sums.endpoints)
        yield GaugeMetricFamily("percale_service_problems", "What is wrong with Services.", sums.problems)
        for what, when in (("told", self._progress.last_told), ("programmed", self._progress.last_done)):
            name, text = f"percale_service_last_{what}_timestamp_seconds", f"When Services were last {what}, or 0."
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
    """None: there is no such Service (any more)."""
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
    """Both traffic policies count: what is dropped for clients inside or outside is dropped."""
    if not port.anywhere:
        return "rejected"
    return "dropped" if isinstance(port.inside, str) or isinstance(port.outside, str) else "served"


def _endpoints(port: ResolvedPort) -> int:
    return len({*port.records(port.cluster), *port.records(port.local)})
