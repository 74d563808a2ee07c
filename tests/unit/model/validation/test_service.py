"""What the API server would refuse of a Service or an EndpointSlice, in its words."""

from __future__ import annotations

from typing import Any

import pytest

from percale.model.validation.service import check_endpoint_slice, check_endpoints, check_service


def service(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def said(value: dict[str, Any]) -> list[str]:
    return list(map(str, check_service(value)))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"type": "ExternalName", "externalName": "db.example.com", "ports": []},
        {"clusterIP": "None", "ports": []},
        {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000},
        {"type": "LoadBalancer", "loadBalancerSourceRanges": [" 10.0.0.0/8"]},
        {"externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local"},
        {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]},
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}}},
        {
            "type": "NodePort",
            "ports": [
                {"name": "a", "port": 53, "nodePort": 30053},
                {"name": "b", "port": 53, "protocol": "UDP", "nodePort": 30053, "targetPort": "dns"},
            ],
        },
    ],
)
def test_what_is_fine(spec: dict[str, Any]) -> None:
    assert said(service(**spec)) == []


PORT = {"port": 80}


@pytest.mark.parametrize(
    ("spec", "errors"),
    [
        ({"ports": []}, ["spec.ports: Required value"]),
        ({"ports": [{"port": 0}]}, ["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"]),
        ({"ports": [PORT, {"port": 81, "name": "x"}]}, ["spec.ports[0].name: Required value"]),
        (
            {"ports": [{"port": 80, "name": "x"}, {"port": 81, "name": "x"}]},
            ['spec.ports[1].name: Duplicate value: "x"'],
        ),
        (
            {"ports": [{"port": 80, "name": "x"}, {"port": 80, "name": "y"}]},
            ['spec.ports[1]: Duplicate value: {"protocol": "TCP", "port": 80}'],
        ),
        (
            {"ports": [{"port": 80, "protocol": "HTTP"}]},
            ['spec.ports[0].protocol: Unsupported value: "HTTP": supported values: "SCTP", "TCP", "UDP"'],
        ),
        (
            {"ports": [{"port": 80, "targetPort": "a--b"}]},
            ['spec.ports[0].targetPort: Invalid value: "a--b": must not contain consecutive hyphens'],
        ),
        (
            {"ports": [{"port": 80, "targetPort": 70000}]},
            ["spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        (
            {"ports": [{"port": 80, "nodePort": 30000}]},
            ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            {
                "type": "NodePort",
                "ports": [{"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 81, "nodePort": 30000}],
            },
            ["spec.ports[1].nodePort: Duplicate value: 30000"],
        ),
        (
            {"type": "Balancer"},
            [
                'spec.type: Unsupported value: "Balancer": supported values: '
                '"ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'
            ],
        ),
        (
            {"type": "NodePort", "clusterIP": "None"},
            ["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
        ({"type": "ExternalName"}, ["spec.externalName: Required value"]),
        (
            {"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.1"},
            ["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
        ),
        (
            {"allocateLoadBalancerNodePorts": False, "loadBalancerClass": "x"},
            [
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
            [
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: "
                "must be greater than 0 and less than 86400"
            ],
        ),
        (
            {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}},
            ["spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None"],
        ),
        (
            {"sessionAffinity": "Cookie"},
            ['spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", "None"'],
        ),
        (
            {"clusterIP": "10.96.0", "clusterIPs": []},
            [
                'spec.clusterIPs[0]: Invalid value: "10.96.0": must be a valid IP address, '
                "(e.g. 10.9.8.7 or 2001:db8::ffff)"
            ],
        ),
        (
            {"clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.1"]},
            ['spec.clusterIPs: Invalid value: ["10.96.0.1"]: first value must match `clusterIP`'],
        ),
        (
            {"clusterIPs": ["10.96.0.1", "10.96.0.2"]},
            [
                'spec.clusterIPs: Invalid value: ["10.96.0.1", "10.96.0.2"]: '
                "may specify no more than one IP for each IP family"
            ],
        ),
        (
            {"clusterIPs": ["None", "10.96.0.2"]},
            ['spec.clusterIPs: Invalid value: ["None", "10.96.0.2"]: \'None\' must be the first and only value'],
        ),
        (
            {"externalIPs": ["127.0.0.1", "0.0.0.0", "here"]},
            [
                'spec.externalIPs[0]: Invalid value: "127.0.0.1": '
                "may not be in the loopback range (127.0.0.0/8, ::1/128)",
                'spec.externalIPs[1]: Invalid value: "0.0.0.0": may not be unspecified (0.0.0.0)',
                'spec.externalIPs[2]: Invalid value: "here": must be a valid IP address, '
                "(e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            {"loadBalancerSourceRanges": ["10.0.0.0/8"]},
            ["spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"],
        ),
        (
            {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0"]},
            [
                'spec.loadBalancerSourceRanges[0]: Invalid value: "10.0.0.0": '
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            ],
        ),
        (
            {"externalTrafficPolicy": "Local"},
            ['spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services'],
        ),
        (
            {"internalTrafficPolicy": "Here"},
            ['spec.internalTrafficPolicy: Unsupported value: "Here": supported values: "Cluster", "Local"'],
        ),
        (
            {"healthCheckNodePort": 32000},
            [
                "spec.healthCheckNodePort: Invalid value: 32000: may only be set when `type` is 'LoadBalancer' "
                "and `externalTrafficPolicy` is 'Local'"
            ],
        ),
        ({"ipFamilies": ["IPv4", "IPv4"]}, ['spec.ipFamilies[1]: Duplicate value: "IPv4"']),
        (
            {"ipFamilyPolicy": "Both"},
            [
                'spec.ipFamilyPolicy: Unsupported value: "Both": supported values: '
                '"PreferDualStack", "RequireDualStack", "SingleStack"'
            ],
        ),
        (
            {"trafficDistribution": "Near"},
            [
                'spec.trafficDistribution: Unsupported value: "Near": supported values: '
                '"PreferClose", "PreferSameNode", "PreferSameZone"'
            ],
        ),
    ],
)
def test_what_is_refused(spec: dict[str, Any], errors: list[str]) -> None:
    assert said(service(**spec)) == errors


@pytest.mark.parametrize("name", ["Web", "1web", "web-", "web.a", "a" * 64])
def test_names(name: str) -> None:
    (error,) = said(service(name))
    assert error.startswith(f'metadata.name: Invalid value: "{name}": ')


def test_no_name_and_several_errors_at_once() -> None:
    assert said(service("", ports=[], sessionAffinity="x"))[0].startswith("metadata.name: Required value")
    assert len(said(service("", ports=[], sessionAffinity="x"))) == 3


# EndpointSlices


def entry(**fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web-1"}, "addressType": "IPv4", **fields}


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({"endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n1"}], "ports": [{"port": 80}]}, []),
        ({"addressType": "FQDN", "endpoints": [{"addresses": ["db.example.com"]}]}, []),
        ({"addressType": ""}, ["addressType: Required value"]),
        ({"addressType": "IPv5"}, ['addressType: Unsupported value: "IPv5": supported values: "FQDN", "IPv4", "IPv6"']),
        (
            {"endpoints": [{"addresses": []}]},
            ["endpoints[0].addresses: Required value: must contain at least 1 address"],
        ),
        (
            {"endpoints": [{"addresses": ["10.0.0.1", "fd00::1", "127.0.0.1"]}]},
            [
                'endpoints[0].addresses[1]: Invalid value: "fd00::1": must be a valid IPv4 address',
                'endpoints[0].addresses[2]: Invalid value: "127.0.0.1": '
                "may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            {"endpoints": [{"addresses": ["10.0.0.1"], "hostname": "a.b"}]},
            ['endpoints[0].hostname: Invalid value: "a.b": must not contain dots'],
        ),
        ({"ports": [{"port": 80}, {"port": 81}]}, ['ports[1].name: Duplicate value: ""']),
        (
            {"ports": [{"port": 0, "protocol": "X"}]},
            [
                "ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                'ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"',
            ],
        ),
        (
            {"endpoints": [{"addresses": ["10.0.0.1"]}] * 1001},
            ["endpoints: Too many: 1001: must have at most 1000 items"],
        ),
        (
            {"endpoints": [{"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "z"}] * 9}}]},
            ["endpoints[0].hints.forZones: Too many: 9: must have at most 8 items"],
        ),
    ],
)
def test_slices(fields: dict[str, Any], errors: list[str]) -> None:
    assert list(map(str, check_endpoint_slice(entry(**fields)))) == errors


@pytest.mark.parametrize(
    ("subset", "errors"),
    [
        ({"addresses": [{"ip": "203.0.113.2"}], "ports": [{"port": 80}]}, []),
        ({"notReadyAddresses": [{"ip": "2001:db8::1"}]}, []),
        (
            {"addresses": [{"ip": "203.0.113.2"}, {"ip": "db.example.org"}]},
            [
                'subsets[0].addresses[1].ip: Invalid value: "db.example.org": must be a valid IP address, '
                "(e.g. 10.9.8.7 or 2001:db8::ffff)"
            ],
        ),
        (
            {"notReadyAddresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 80, "protocol": "ICMP"}]},
            [
                'subsets[0].notReadyAddresses[0].ip: Invalid value: "127.0.0.1": '
                "may not be in the loopback range (127.0.0.0/8, ::1/128)",
                'subsets[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"',
            ],
        ),
        ({"ports": [{"port": 80}]}, ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]),
    ],
)
def test_endpoints(subset: dict[str, Any], errors: list[str]) -> None:
    entry = {"metadata": {"name": "db", "namespace": "shop"}, "subsets": [subset]}
    assert list(map(str, check_endpoints(entry))) == errors
