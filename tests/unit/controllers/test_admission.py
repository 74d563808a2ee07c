"""Services are let in as by an API server, or refused in its words."""

from __future__ import annotations

from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest
from tests import builders
from tests.builders import endpoint_slice

from percale.controllers.admission import admit
from percale.controllers.service_networks import ServiceNetworks
from percale.errors import BadManifest, BadManifests
from percale.model.manifest.decode import ManifestEntry, Source
from percale.model.meta import Object
from percale.model.service import Service

NETWORKS = ServiceNetworks((ip_network("10.96.0.0/16"),), ())


service = partial(builders.service, namespace="shop")


def found(*objects: Object) -> list[ManifestEntry]:
    return [ManifestEntry(obj, Source("f.yaml", 10 * number)) for number, obj in enumerate(objects, 1)]


def specs(given: list[ManifestEntry]) -> list[Any]:
    return [each.object.spec for each in given if isinstance(each.object, Service)]


def test_who_asks_comes_first_and_the_order_stays() -> None:
    a, b = specs(admit(found(service("a"), service("b", clusterIP="10.96.1.1")), (), NETWORKS))
    assert (a.clusterIPs, b.clusterIPs) == (("10.96.1.2",), ("10.96.1.1",))


def test_applied_again_it_keeps_what_it_has() -> None:
    (had,) = admit(found(service("a", type="NodePort")), (), NETWORKS)
    assert isinstance(had.object, Service)
    assert admit(found(service("a", type="NodePort")), [had.object], NETWORKS)[0].object == had.object


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (service("x", clusterIP="10.96.5.5"), "provided IP is already allocated"),
        (service("x", clusterIP="10.96.0.10"), "provided IP is already allocated"),
        (service("x", clusterIP="10.7.0.1"), "the provided IP (10.7.0.1) is not in the valid range"),
        (service("x", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]), "provided port is already allocated"),
        (
            service("x", type="NodePort", ports=[{"port": 80, "nodePort": 80}]),
            "The range of valid ports is 30000-32767",
        ),
        (service("x", ports=[]), "spec.ports: Required value"),
        (service("x", ipFamilies=["IPv6"]), "not configured on this cluster"),
    ],
)
def test_what_cannot_be_is_refused_with_the_place(bad: Object, said: str) -> None:
    known = [service("old", type="NodePort", clusterIP="10.96.5.5", ports=[{"port": 80, "nodePort": 30080}])]
    with pytest.raises(BadManifest) as raised:
        admit(found(service("good"), bad), known, NETWORKS)
    assert str(raised.value).startswith("f.yaml:20: Service shop/x: spec.")
    assert said in str(raised.value)


def test_all_errors_are_told() -> None:
    slice_ = endpoint_slice("web", "::1", name="s", namespace="shop", family="IPv4")
    with pytest.raises(BadManifests) as raised:
        admit(found(service("a", ports=[]), slice_), (), NETWORKS)
    first, second = raised.value.lines
    assert first == "f.yaml:10: Service shop/a: spec.ports: Required value"
    assert second.startswith("f.yaml:20: EndpointSlice shop/s: endpoints[0].addresses[0]: Invalid value")
