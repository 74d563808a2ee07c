"""Calico's BGP objects: what its API refuses, we refuse, so that no text of a user gets into BIRD's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from percale.model.bgp import BGPConfiguration, BGPFilter, BGPPeer, as_number, without_effect
from percale.model.manifest.decode import decode_manifest
from percale.model.manifest.decoders import converted
from percale.model.validation.bgp import peer_address, seconds
from percale.model.validation.validators import field_errors

ROUTER = {"peerIP": "192.0.2.1", "asNumber": 64513}


def errors(kind: type[Any], **spec: Any) -> list[str]:
    return [str(each) for each in field_errors(kind, {"metadata": {"name": "x"}, "spec": spec})]


@pytest.mark.parametrize("version", ["projectcalico.org/v3", "crd.projectcalico.org/v1"])
def test_objects_of_calico_are_taken_as_they_are(version: str) -> None:
    text = f"""\
apiVersion: {version}
kind: BGPPeer
metadata: {{name: rack1-tor}}
spec: {{peerIP: 192.20.30.40, asNumber: 64567, nodeSelector: rack == 'rack-1'}}
"""
    (entry,) = decode_manifest(text.encode(), "x.yaml").entries
    assert isinstance(entry.object, BGPPeer)
    assert entry.object.spec.asNumber == 64567


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        (BGPPeer, {}, "spec.peerIP: Required value: peerIP or peerSelector says with whom to peer"),
        (
            BGPPeer,
            {**ROUTER, "node": "a", "nodeSelector": "all()"},
            "spec.nodeSelector: Forbidden: may not be set together with node",
        ),
        (BGPPeer, {"peerIP": "192.0.2.1"}, "spec.asNumber: Required value: the AS number of the router at peerIP"),
        (
            BGPPeer,
            {**ROUTER, "peerIP": "192.0.2.1; }"},
            'spec.peerIP: Invalid value: "192.0.2.1; }": must be an IP address, with or without a port',
        ),
        (
            BGPPeer,
            {**ROUTER, "peerIP": "fe80::1%eth0"},
            'spec.peerIP: Invalid value: "fe80::1%eth0": must be the address of a router',
        ),
        (
            BGPPeer,
            {**ROUTER, "asNumber": "1; exit"},
            "spec.asNumber: Invalid value: \"1; exit\": '1; exit' is not an AS number",
        ),
        (
            BGPPeer,
            {**ROUTER, "filters": ["a; }"]},
            'spec.filters[0]: Invalid value: "a; }": must be the name of a BGPFilter',
        ),
        (BGPPeer, {**ROUTER, "ttlSecurity": 256}, "spec.ttlSecurity: Invalid value: 256: must be from 0 to 255"),
        (
            BGPPeer,
            {**ROUTER, "maxRestartTime": "2h"},
            'spec.maxRestartTime: Invalid value: "2h": must be from 1s to 4095s',
        ),
        (
            BGPPeer,
            {**ROUTER, "password": {"secretKeyRef": {"name": "../x", "key": ".."}}},
            'spec.password.secretKeyRef.name: Invalid value: "../x": must be the name of a Secret',
        ),
        (
            BGPConfiguration,
            {"serviceClusterIPs": [{"cidr": "10.0.0.0"}]},
            'spec.serviceClusterIPs[0].cidr: Invalid value: "10.0.0.0": must be a valid CIDR value',
        ),
        (
            BGPFilter,
            {"exportV4": [{"action": "Accept", "cidr": "10.0.0.0/8"}]},
            "spec.exportV4[0].matchOperator: Required value: cidr and matchOperator belong together",
        ),
        (
            BGPFilter,
            {"importV4": [{"action": "Accept", "cidr": "::/0", "matchOperator": "In"}]},
            'spec.importV4[0].cidr: Invalid value: "::/0": must be an IPv4 network',
        ),
        (
            BGPFilter,
            {
                "importV6": [
                    {"action": "Accept", "cidr": "::/0", "matchOperator": "In", "prefixLength": {"min": 9, "max": 3}}
                ]
            },
            'spec.importV6[0].prefixLength: Invalid value: "object": min must not be above max',
        ),
    ],
)
def test_what_is_refused(kind: type[Any], spec: dict[str, Any], said: str) -> None:
    assert said in errors(kind, **spec)


def test_what_is_valid() -> None:
    assert errors(BGPPeer, **ROUTER, localASNumber="1.10", ttlSecurity=1, maxRestartTime="2m30s", filters=["a"]) == []
    assert errors(BGPPeer, nodeSelector="all()", peerSelector="has(rr)") == []
    assert errors(BGPConfiguration, asNumber=64512, serviceExternalIPs=[{"cidr": "198.51.100.0/24"}]) == []
    assert errors(BGPFilter, exportV6=[{"action": "Reject", "source": "RemotePeers"}]) == []


def test_parts() -> None:
    assert [as_number(each) for each in (64512, "64512", "1.10")] == [64512, 64512, 65546]
    assert seconds("1h2m3s") == 3723
    assert peer_address("192.0.2.1:1790") == ("192.0.2.1", 1790)
    assert peer_address("[2001:db8::1]:179") == ("2001:db8::1", 179)
    for wrong in ("0", "65536.1", "-1", "4294967296"):
        with pytest.raises(ValueError, match="AS number"):
            as_number(wrong)


def test_fields_without_effect_are_named() -> None:
    configuration = converted({"metadata": {"name": "default"}, "spec": {"bindMode": "NodeIP"}}, BGPConfiguration)
    rules = converted(
        {"metadata": {"name": "f"}, "spec": {"exportV4": [{"action": "Accept", "interface": "eth0"}]}}, BGPFilter
    )
    assert list(without_effect(configuration)) == ["spec.bindMode"]
    assert list(without_effect(rules)) == ["spec.exportV4[0].interface"]
