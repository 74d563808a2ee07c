"""What a Service may cost: more than that harms it alone."""

from __future__ import annotations

import time

import pytest
from tests.unit.service.build import build

from percale.model.endpoints import EndpointSlice
from percale.model.meta import ObjectKey
from percale.service import cost
from percale.service.cost import MAX_ELEMENTS
from percale.service.resolver import ServiceResolver
from percale.service.strategies import STRATEGY_ANNOTATION

KEY = ObjectKey("ns1", "svc1")
ADDRESSES = [f"203.0.113.{each}" for each in range(1, 101)]
POD, IP = "10.0.0.2", "172.30.0.41"


def table(ports: int, endpoints: int, strategy: str = "random", **spec: object) -> ServiceResolver:
    """svc1 with so many ports and endpoints, and svc2 with one of each."""
    names = [f"p{number}" for number in range(ports)]
    return build.table(
        build.service(
            "svc1",
            *(build.port(1000 + number, name) for number, name in enumerate(names)),
            annotations={STRATEGY_ANNOTATION: strategy},
            **spec,  # type: ignore[arg-type]
        ),
        build.slice(
            *(f"10.180.{number // 250}.{number % 250 + 1}" for number in range(endpoints)),
            ports=[(name, 80, "TCP") for name in names],
        ),
        build.service("svc2", ip="172.30.0.42"),
        build.slice("10.180.0.1", service="svc2"),
    )


@pytest.mark.parametrize(
    ("ports", "endpoints", "strategy", "spec"),
    [
        (300, 3, "mh", {}),
        (101, 1000, "random", {}),
        (101, 10, "wrr", {}),
        (60, 1000, "random", {"internalTrafficPolicy": "Local"}),
        (12, 1000, "mh", {}),
        (1001, 1, "random", {}),
        (100, 10, "random", {"externalIPs": ADDRESSES}),
        (20, 1, "random", {"lb": ADDRESSES[:10], "loadBalancerSourceRanges": [f"{each}/32" for each in ADDRESSES] * 6}),
    ],
)  # fmt: skip
def test_a_service_that_costs_too_much_serves_nobody_and_says_so(
    ports: int, endpoints: int, strategy: str, spec: dict[str, object]
) -> None:
    found = table(ports, endpoints, strategy, **spec)
    (problem,) = [each for each in found.services[KEY].problems if "elements" in each]
    assert problem.startswith("Service ns1/svc1: it would take ")
    assert f"of {MAX_ELEMENTS} that it may" in problem
    assert build.brief(found, POD, IP, 1000) == "reject"
    assert build.brief(found, POD, "172.30.0.42") == "10.180.0.1:80"


@pytest.mark.parametrize(
    ("ports", "endpoints", "strategy"), [(99, 1000, "random"), (10, 1000, "mh"), (54, 100, "mh"), (98, 10, "wrr")]
)
def test_what_it_may_cost_is_served(ports: int, endpoints: int, strategy: str) -> None:
    found = table(ports, endpoints, strategy)
    assert not found.services[KEY].problems
    assert found.services[KEY].ports[-1].cluster


def test_very_many_ports_take_no_time() -> None:
    """As many as there are, in as many slices as that takes: nobody looks for each among all."""
    ports = [build.port(1 + number, f"p{number}") for number in range(20_000)]
    slices = [
        build.slice("10.180.0.1", index=start, ports=[(f"p{start + number}", 80, "TCP") for number in range(100)])
        for start in range(0, len(ports), 100)
    ]
    before = time.process_time()
    found = build.table(build.service("svc1", *ports), *slices)
    assert time.process_time() - before < 30  # it was quadratic: minutes
    assert len(found.services[KEY].ports) == 1
    assert build.brief(found, POD, IP, 1) == "reject"


def test_it_is_served_again_when_it_costs_less() -> None:
    found = table(300, 3, "mh")
    few = build.service("svc1", build.port(1000, "p0"), annotations={STRATEGY_ANNOTATION: "mh"})
    assert found.apply([few]) == {KEY}
    assert not found.services[KEY].problems
    assert build.brief(found, POD, IP, 1000).startswith("10.180.0.")


def test_many_services_of_a_namespace_cost_no_more_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most expensive ones are left out until the others leave room; those of other namespaces are served."""
    monkeypatch.setattr(cost, "MAX_NAMESPACE_ELEMENTS", 1000)
    found = build.table()
    for number in range(5):
        name, ip = f"svc{number}", f"172.30.0.{50 + number}"
        found.apply([build.slice(*(f"10.180.1.{each + 1}" for each in range(220 + 5 * number)), service=name)])
        found.apply([build.service(name, ip=ip)])
    small = [build.slice("10.180.0.1", service="small"), build.service("small", ip="172.30.0.42")]
    assert found.apply(small) == {ObjectKey("ns1", "small")}
    left_out = [key.name for key, each in sorted(found.services.items()) if each.problems]
    assert left_out == ["svc4"]
    assert "would take more than 1000 elements in each node's kernel" in next(found.problems)
    assert build.brief(found, POD, "172.30.0.54") == "reject"
    assert build.brief(found, POD, "172.30.0.42") == "10.180.0.1:80"
    assert found.apply(gone=[(EndpointSlice, ObjectKey("ns1", "svc0-1"))]) == {
        ObjectKey("ns1", "svc0"),
        ObjectKey("ns1", "svc4"),
    }
    assert not list(found.problems)
    assert build.brief(found, POD, "172.30.0.54").startswith("10.180.1.")
