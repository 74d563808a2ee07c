"""The gauges of Services: sums that follow changes, and what counts as what."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests import builders

from percale.agent.service.metrics import ServiceMetrics
from percale.agent.service.sync_latency import SyncLatency
from percale.model.endpoints import EndpointSlice
from percale.model.meta import Object, ObjectKey
from percale.model.service import Service
from percale.service.node_context import ServiceConfig
from percale.service.resolver import ServiceResolver


class World:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.table = ServiceResolver(ServiceConfig(node="n1"))
        self.metrics = ServiceMetrics(self.registry, self.table.services, SyncLatency())

    def put(self, *objects: Object, gone: tuple[tuple[type[Object], ObjectKey], ...] = ()) -> World:
        self.metrics.changed(self.table.apply(objects, gone))
        return self

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"percale_{name}", labels)

    @property
    def ports(self) -> dict[str, float | None]:
        return {result: self.value("service_ports", result=result) for result in ("served", "rejected", "dropped")}


def service(name: str, number: int, **fields: Any) -> Service:
    ports = ({"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"})
    return builders.service(name, clusterIP=f"10.96.0.{number}", ports=ports, **fields)


def slice_of(name: str, *endpoints: str) -> EndpointSlice:
    """Of the port http only."""
    return builders.endpoint_slice(name, *endpoints, ports=[{"name": "http", "port": 8080}])


@pytest.fixture
def world() -> World:
    return World()


def test_nothing_is_nothing(world: World) -> None:
    assert world.value("services") == 0
    assert world.ports == {"served": 0, "rejected": 0, "dropped": 0}
    assert world.value("service_last_programmed_timestamp_seconds") == 0


def test_sums_follow_each_change(world: World) -> None:
    two = slice_of("web", "10.0.0.1@n1", "10.0.0.2@n2")
    world.put(service("web", 1), service("db", 2), two)
    assert world.value("services") == 2
    assert world.ports == {"served": 1, "rejected": 3, "dropped": 0}
    assert world.value("service_endpoints") == 2
    world.put(service("web", 1, internalTrafficPolicy="Local"))
    assert world.ports == {"served": 1, "rejected": 3, "dropped": 0}
    assert world.value("service_endpoints") == 2, "one here; other addresses of the Service have both"
    world.put(slice_of("web", "10.0.0.2@n2"))
    assert world.ports == {"served": 0, "rejected": 3, "dropped": 1}
    world.put(gone=((Service, ObjectKey("default", "web")),))
    assert world.value("services") == 1
    assert world.ports == {"served": 0, "rejected": 2, "dropped": 0}
    assert world.value("service_endpoints") == 0


def test_an_endpoint_with_many_slots_is_one(world: World) -> None:
    world.put(
        service("web", 1, annotations={"percale.io/strategy": "mh"}), slice_of("web", "10.0.0.1@n1", "10.0.0.2@n1")
    )
    assert world.value("service_endpoints") == 2


def test_problems_are_counted_while_they_last(world: World) -> None:
    world.put(service("web", 1, externalIPs=("nowhere",)))
    assert world.value("service_problems") == 1
    world.put(service("web", 1))
    assert world.value("service_problems") == 0


def test_several_changes_between_two_looks_are_one(world: World) -> None:
    for number in (1, 2, 3):
        world.put(service("web", number), slice_of("web", "10.0.0.1@n1"))
    world.put(gone=((Service, ObjectKey("default", "web")),))
    world.put(service("web", 4))
    assert world.value("services") == 1
    assert world.value("service_endpoints") == 1


def test_what_happens_is_counted(world: World) -> None:
    world.metrics.received("Service", 3)
    world.metrics.received("EndpointSlice")
    world.metrics.programmed(0.003)
    world.metrics.health_answered("healthz", 503)
    world.metrics.clients_forgotten(2)
    assert world.value("service_events_total", kind="Service") == 3
    assert world.value("service_programming_seconds_count") == 1
    assert world.value("health_answers_total", path="healthz", code="503") == 1
    assert world.value("service_clients_forgotten_total") == 2
