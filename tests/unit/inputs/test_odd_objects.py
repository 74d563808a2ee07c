"""Objects that are well-formed and absurd: an agent makes of them what it can, and what is the others' stays as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.inputs.test_fuzzed_agents import mean
from tests.unit.inputs.valid import LEASE, NODE, POD, SERVICE, SLICE

from percale.model.manifest.decode import decode_manifest
from percale.model.meta import Object, ObjectKey
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Pod
from percale.model.service import Service
from percale.policy.evaluator import Evaluator
from percale.policy.verdict import Flow
from percale.service.node_context import ServiceConfig
from percale.service.resolver import KINDS as SERVICE_KINDS
from percale.service.resolver import ServiceResolver


def objects(*values: Any) -> list[Object]:
    document = {"apiVersion": "v1", "kind": "List", "items": list(values)}
    return list(decode_manifest(json.dumps(document).encode(), "m.json").objects)


def policy(spec: Any, name: str = "odd") -> Any:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "other"},
        "spec": spec,
    }


def service(**spec: Any) -> Any:
    """With an address of its own, unless `spec` has another's."""
    usual = {"clusterIP": "10.96.0.99", "ports": [{"name": "http", "port": 80}], "sessionAffinity": "ClientIP"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "odd"}, "spec": {**usual, **spec}}


def endpoints(*addresses: str) -> Any:
    return {
        **SLICE,
        "metadata": {"name": "odd", "labels": {"kubernetes.io/service-name": "odd"}},
        "endpoints": [{"addresses": [each]} for each in addresses],
    }


def lease(**spec: Any) -> Any:
    return {**LEASE, "metadata": {"name": "odd"}, "spec": {**LEASE["spec"], "node": "odd", **spec}}


def node(*addresses: str) -> Any:
    status = {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]}
    return {**NODE, "metadata": {"name": "odd"}, "status": status}


CONTRADICTION = [
    {"key": "a", "operator": "In", "values": ["x"]},
    {"key": "a", "operator": "NotIn", "values": ["x"]},
    {"key": "a", "operator": "DoesNotExist"},
]
ODD = {
    "300 ports": [service(ports=[{"name": f"p{port}", "port": port} for port in range(1, 301)])],
    "no ports": [service(ports=[])],
    "a node port of another's": [service(ports=[{"name": "a", "port": 1, "nodePort": 30080}])],
    "the address of another": [service(clusterIP="10.96.0.10", clusterIPs=["10.96.0.10"])],
    "absurd addresses": [service(externalIPs=["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "x", "::1%lo"])],
    "absurd ranges": [service(loadBalancerSourceRanges=["0.0.0.0/0", "x", "10.0.0.0/99"])],
    "an affinity for ever": [service(sessionAffinityConfig={"clientIP": {"timeoutSeconds": 2**62}})],
    "absurd endpoints": [service(), endpoints("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255")],
    "3000 endpoints": [service(), endpoints(*(f"10.9.{number // 250}.{number % 250}" for number in range(3000)))],
    "all ports": [policy({"podSelector": {}, "ingress": [{"ports": [{"port": 1, "endPort": 65535}]}]})],
    "10,000 ports": [
        policy({"podSelector": {}, "ingress": [{"ports": [{"port": 1 + port} for port in range(10_000)]}]})
    ],
    "10,000 peers": [
        policy(
            {
                "podSelector": {},
                "ingress": [
                    {
                        "from": [
                            {"ipBlock": {"cidr": f"10.{number >> 8}.{number & 255}.0/24"}} for number in range(10_000)
                        ]
                    }
                ],
            }
        )
    ],
    "10,000 selectors": [
        policy(
            {
                "podSelector": {},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"a": f"v{each}"}}} for each in range(10_000)]}],
            }
        )
    ],
    "a contradiction, often": [policy({"podSelector": {"matchExpressions": CONTRADICTION * 300}})],
    "all is excepted": [
        policy(
            {
                "podSelector": {},
                "ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["0.0.0.0/1", "128.0.0.0/1"]}}]}],
            }
        )
    ],
    "a label key of 10 kB": [{**POD, "metadata": {"name": "odd", "namespace": "other", "labels": {"k" * 10_000: "v"}}}],
    "a pod with another's address": [{**POD, "metadata": {"name": "odd", "namespace": "other"}}],
    "a node with absurd addresses": [node("x", "", "0.0.0.0", "127.0.0.1", "224.0.0.1", "fe80::1%eth0")],
    "absurd subnets": [lease(subnet=each) for each in ("0.0.0.0/0", "127.0.0.0/8", "10.244.0.0/16", "10.244.9.7/32")],
    "absurd public addresses": [lease(publicIP=each) for each in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "192.168.1.2")],
    "absurd MACs": [lease(backendData={"VNI": 1, "VtepMAC": each}) for each in ("00:00:00:00:00:00", "x", 5, None)],
    "absurd VNIs": [lease(backendData={"VNI": each, "VtepMAC": "02:00:00:00:00:09"}) for each in (-1, 10**30, "1", 2)],
}
WEB = objects(SERVICE, SLICE, {**NODE})
CLIENT, SERVER = (
    {
        **POD,
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
    }
    for name, ip in (("client", "10.244.0.21"), ("server", "10.244.0.22"))
)
OURS = {
    "podSelector": {"matchLabels": {"app": "server"}},
    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 80}]}],
}
GUARDED = objects(CLIENT, SERVER, {**policy(OURS, "ours"), "metadata": {"name": "ours", "namespace": "default"}})


def odd_objects(name: str) -> list[Object]:
    """Several may be alternatives of one name, so each is decoded alone."""
    return [obj for value in ODD[name] for obj in objects(value)]


@pytest.mark.parametrize("name", ODD)
def test_nothing_but_itself_suffers_from_an_absurd_object(name: str) -> None:
    odd = odd_objects(name)
    assert odd
    mean([*WEB, *GUARDED, *odd])
    mean([*odd, *WEB, *GUARDED])


@pytest.mark.parametrize("name", [name for name in ODD if isinstance(odd_objects(name)[0], Service)])
def test_the_services_of_others_stay(name: str) -> None:
    alone, together = ServiceResolver(ServiceConfig("node1"), WEB), ServiceResolver(ServiceConfig("node1"))
    together.apply([obj for obj in (*WEB, *odd_objects(name)) if isinstance(obj, SERVICE_KINDS)])
    key = ObjectKey("default", "web")
    ours, theirs = alone.services[key], together.services[key]
    assert [(port.name, port.cluster) for port in ours.ports] == [(port.name, port.cluster) for port in theirs.ports]
    if "of another" not in name:
        assert ours == theirs


@pytest.mark.parametrize("name", [name for name in ODD if isinstance(odd_objects(name)[0], NetworkPolicy | Pod)])
def test_the_verdicts_about_others_stay(name: str) -> None:
    evaluator = Evaluator((*GUARDED, *odd_objects(name)))
    client, server = (bytes((10, 244, 0, last)) for last in (21, 22))
    found = [
        evaluator.evaluate(Flow(evaluator.flow_end(client), evaluator.flow_end(server), "TCP", port)).allowed
        for port in (80, 81)
    ]
    assert found == [True, False]
