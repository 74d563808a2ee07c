"""A runtime's call becomes a request, or one error with CNI's code."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from percale.cni.requests import (
    KubernetesPod,
    Request,
    ValidAttachment,
    parse,
    requested_addresses,
    requested_limits,
    requested_mac,
    requested_ports,
)
from percale.cni.results import (
    BAD_CONFIGURATION,
    BAD_ENVIRONMENT,
    INCOMPATIBLE_VERSION,
    UNDECODABLE,
    VERSIONS,
    CniError,
)
from percale.ipam.address_pool import Owner
from percale.render.network.pod_veth import Limit
from percale.render.service.host_ports import HostPort

VARIABLES = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/p",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME=front;K8S_POD_UID=u1",
}
CONFIGURATION = {"cniVersion": "1.1.0", "name": "percale", "type": "percale-cni"}


def request(variables: dict[str, str | None] | None = None, **configuration: Any) -> Request:
    environment = {name: value for name, value in {**VARIABLES, **(variables or {})}.items() if value is not None}
    return parse(environment, json.dumps({**CONFIGURATION, **configuration}).encode())


def refused(variables: dict[str, str | None] | None = None, **configuration: Any) -> CniError:
    with pytest.raises(CniError) as caught:
        request(variables, **configuration)
    return caught.value


def test_all_of_an_add() -> None:
    asked = request(wiring="bridge", mtu=1400, unknown={"is": "somebody else's"})
    assert asked.owner == Owner("c0ffee", "eth0")
    assert asked.netns == "/run/netns/p"
    assert asked.pod == KubernetesPod("web", "front", "u1")
    assert (asked.configuration.wiring, asked.configuration.mtu) == ("bridge", 1400)


@pytest.mark.parametrize(("verb", "since"), [("ADD", 0), ("DEL", 0), ("CHECK", 1), ("STATUS", 3), ("GC", 3)])
@pytest.mark.parametrize("version", VERSIONS)
def test_verbs_are_as_old_as_their_version(verb: str, since: int, version: str) -> None:
    if VERSIONS.index(version) >= since:
        assert request({"CNI_COMMAND": verb}, cniVersion=version).version == version
    else:
        assert refused({"CNI_COMMAND": verb}, cniVersion=version).code == INCOMPATIBLE_VERSION


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "1.2.0", "2", "", None, 1.1, ["1.1.0"], {}])
def test_other_versions_are_incompatible(version: object) -> None:
    error = refused(cniVersion=version)
    assert error.code == INCOMPATIBLE_VERSION
    assert "supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0" in str(error)


def test_a_configuration_without_a_version_is_of_the_oldest() -> None:
    with pytest.raises(CniError, match=r"cniVersion 0\.1\.0 is not supported"):
        parse(VARIABLES, b'{"name": "percale"}')


@pytest.mark.parametrize(
    ("verb", "missing"),
    [
        ("ADD", "CNI_CONTAINERID"),
        ("ADD", "CNI_NETNS"),
        ("ADD", "CNI_IFNAME"),
        ("CHECK", "CNI_NETNS"),
        ("DEL", "CNI_CONTAINERID"),
        ("DEL", "CNI_IFNAME"),
    ],
)
@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_missing_is_named(verb: str, missing: str, value: str | None) -> None:
    error = refused({"CNI_COMMAND": verb, missing: value})
    assert error.code == BAD_ENVIRONMENT
    assert missing in str(error)


def test_del_needs_no_namespace_and_status_and_gc_need_no_container() -> None:
    assert request({"CNI_COMMAND": "DEL", "CNI_NETNS": None}).netns is None
    for verb in ("STATUS", "GC"):
        nobody: dict[str, str | None] = {"CNI_CONTAINERID": None, "CNI_NETNS": None, "CNI_IFNAME": None}
        assert request({"CNI_COMMAND": verb, **nobody}).owner is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CNI_COMMAND", "DANCE"),
        ("CNI_COMMAND", None),
        ("CNI_CONTAINERID", "../../etc"),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_CONTAINERID", "a@b"),
        ("CNI_CONTAINERID", "x" * 201),
        ("CNI_IFNAME", "eth0/x"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "sixteen-letters-"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "a:0"),
        ("CNI_IFNAME", "eth%d"),
        ("CNI_IFNAME", "lo"),
        ("CNI_IFNAME", "all"),
        ("CNI_IFNAME", "\u00e9" * 8),
        ("CNI_ARGS", "K8S_POD_NAME"),
    ],
)
def test_a_variable_that_cannot_be(variable: str, value: str | None) -> None:
    assert refused({variable: value}).code == BAD_ENVIRONMENT


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":"\xff"}', b'{"a":' + b"[" * 200_000])
def test_what_is_no_object_is_undecodable(text: bytes) -> None:
    with pytest.raises(CniError) as caught:
        parse(VARIABLES, text)
    assert caught.value.code == UNDECODABLE


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ({"name": ""}, "has no name"),
        ({"name": 7}, r"\$.name"),
        ({"wiring": "tunnel"}, r"\$.wiring"),
        ({"mtu": 10}, r"\$.mtu"),
        ({"runtimeConfig": {"ips": "10.0.0.1"}}, r"\$.runtimeConfig.ips"),
        ({"runtimeConfig": {"bandwidth": {"ingressRate": -1}}}, r"\$.runtimeConfig.bandwidth.ingressRate"),
        ({"prevResult": []}, r"\$.prevResult"),
        ({"cni.dev/valid-attachments": [{"containerID": "x"}]}, r"valid-attachments"),
    ],
)
def test_a_configuration_that_cannot_be_is_named_by_its_path(configuration: dict[str, Any], words: str) -> None:
    with pytest.raises(CniError, match=words) as caught:
        request(**configuration)
    assert caught.value.code == BAD_CONFIGURATION


def test_null_and_absent_are_the_same() -> None:
    asked = request(runtimeConfig=None, prevResult=None, mtu=None)
    assert asked.runtime.ips == ()
    assert asked.configuration.previous is None


def test_the_attachments_to_keep() -> None:
    asked = request({"CNI_COMMAND": "GC"}, **{"cni.dev/valid-attachments": [{"containerID": "x", "ifname": "eth0"}]})
    assert asked.configuration.valid == (ValidAttachment("x", "eth0"),)


def test_addresses_are_asked_for_by_the_runtime_or_the_annotation() -> None:
    annotations = {"percale.io/ips": "10.1.0.9, fd00::9"}
    assert requested_addresses(request(), annotations) == (ip_address("10.1.0.9"), ip_address("fd00::9"))
    both = request(runtimeConfig={"ips": ["10.1.0.7/24"]})
    assert requested_addresses(both, annotations) == (ip_address("10.1.0.7"),)
    assert requested_addresses(request(), {}) == ()


def test_an_annotation_that_is_no_address_names_the_pod() -> None:
    with pytest.raises(CniError, match=r"annotation percale.io/ips of pod web/front: 'soon'") as caught:
        requested_addresses(request(), {"percale.io/ips": "soon"})
    assert caught.value.code == BAD_CONFIGURATION


@pytest.mark.parametrize("mac", ["", "02:00:00:00:00", "01:00:5e:00:00:01", "00:00:00:00:00:00", "gg:00:00:00:00:01"])
def test_a_mac_that_no_interface_can_have(mac: str) -> None:
    with pytest.raises(CniError, match=r"runtimeConfig\.mac"):
        requested_mac(request(runtimeConfig={"mac": mac}).runtime)


def test_a_mac_is_kept_in_lower_case() -> None:
    assert requested_mac(request(runtimeConfig={"mac": "02:AA:00:00:00:01"}).runtime) == "02:aa:00:00:00:01"
    assert requested_mac(request().runtime) is None


@pytest.mark.parametrize(
    ("bandwidth", "ingress", "egress"),
    [
        ({}, None, None),
        ({"ingressRate": 8000, "ingressBurst": 8000}, Limit(8000, 8000), None),
        ({"egressRate": 8000, "egressBurst": 16000}, None, Limit(8000, 16000)),
        ({"ingressRate": 0, "ingressBurst": 0}, None, None),
    ],
)
def test_limits(bandwidth: dict[str, int], ingress: Limit | None, egress: Limit | None) -> None:
    assert requested_limits(request(runtimeConfig={"bandwidth": bandwidth}).runtime) == (ingress, egress)


def test_names_in_gos_case_as_containerd_has_them() -> None:
    """What containerd 1.6 sent."""
    runtime = request(
        runtimeConfig={
            "bandwidth": {"IngressRate": 8000, "IngressBurst": 16000, "EgressRate": 0, "EgressBurst": 0},
            "io.kubernetes.cri.pod-annotations": {"HostPort": "1"},
            "portMappings": [{"HostPort": 8081, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": "127.0.0.1"}],
        }
    ).runtime
    assert requested_ports(runtime) == (HostPort(8081, 8080, "TCP", ip_address("127.0.0.1")),)
    assert requested_limits(runtime) == (Limit(8000, 16000), None)
    assert runtime.annotations == {"HostPort": "1"}
    assert refused(runtimeConfig={"portMappings": [{"HostPort": "a"}]}).code == BAD_CONFIGURATION


@pytest.mark.parametrize(
    "bandwidth", [{"ingressRate": 8000}, {"egressBurst": 8000}, {"ingressRate": 7, "ingressBurst": 8000}]
)
def test_limits_that_cannot_be(bandwidth: dict[str, int]) -> None:
    with pytest.raises(CniError, match=r"runtimeConfig.bandwidth.(in|e)gress") as caught:
        requested_limits(request(runtimeConfig={"bandwidth": bandwidth}).runtime)
    assert caught.value.code == BAD_CONFIGURATION


def test_without_a_burst_the_bucket_is_one_that_the_kernel_reports_exactly() -> None:
    """containerd asks for 2³² − 1 bits; the kernel keeps a bucket as a time of at most 2³² ticks of 64 ns."""
    ingress, _ = requested_limits(
        request(runtimeConfig={"bandwidth": {"ingressRate": 1_000_000, "ingressBurst": (1 << 32) - 1}}).runtime
    )
    assert ingress is not None
    assert ingress.rate == 1_000_000
    assert ingress.burst / ingress.rate < (1 << 32) * 64e-9
