"""Valid documents of every sort that commands and agents read, as plain values: what the fuzzed ones begin as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]


def documents(*patterns: str) -> list[Any]:
    """Every document of these files, as plain values."""
    files = [file for pattern in patterns for file in sorted(ROOT.glob(pattern))]
    found = [each for file in files for each in yaml.safe_load_all(file.read_text()) if each is not None]
    assert found
    return found


def _chosen(kind: str, name: str) -> dict[str, Any]:
    return {"wanted": [{"kind": kind, "names": [name]}], "namespace": "default", "everywhere": False, "selector": ""}


LEASE: Any = {
    "apiVersion": "percale.io/v1alpha1",
    "kind": "SubnetLease",
    "metadata": {
        "name": "10.244.1.0-24&fd00-10-244-1---64",
        "annotations": {"percale.io/lease-expires": "boot 17.5 90"},
    },
    "spec": {
        "node": "node2",
        "subnet": "10.244.1.0/24",
        "ipv6Subnet": "fd00:10:244:1::/64",
        "publicIP": "192.168.1.3",
        "publicIPv6": "fd00:192:168:1::3",
        "backendType": "vxlan",
        "backendData": {"VNI": 1, "VtepMAC": "02:00:00:00:00:02"},
        "backendV6Data": {"VNI": 1, "VtepMAC": "02:00:00:00:00:03"},
    },
}
NODE: Any = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node1", "labels": {"topology.kubernetes.io/zone": "a"}},
    "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.2"}]},
}
POD: Any = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a", "labels": {"app": "web"}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {
        "nodeName": "node1",
        "terminationGracePeriodSeconds": 30,
        "containers": [
            {"name": "c", "ports": [{"containerPort": 80, "name": "http", "hostPort": 8080, "hostIP": "0.0.0.0"}]}
        ],
    },
    "status": {"phase": "Running", "podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}]},
}
SERVICE: Any = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "annotations": {"percale.io/strategy": "wrr", "percale.io/weights": "node/node1=3"}},
    "spec": {
        "type": "LoadBalancer",
        "selector": {"app": "web"},
        "clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10"],
        "externalIPs": ["203.0.113.9"],
        "loadBalancerSourceRanges": ["203.0.113.0/24"],
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 31000,
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "ports": [
            {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080},
            {"name": "u", "port": 53, "protocol": "UDP"},
        ],
    },
    "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.80"}]}},
}
SLICE: Any = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080}, {"name": "u", "port": 53, "protocol": "UDP"}],
    "endpoints": [
        {
            "addresses": ["10.244.0.5"],
            "nodeName": "node1",
            "hostname": "a",
            "conditions": {"ready": True},
            "hints": {"forZones": [{"name": "a"}]},
        }
    ],
}
ENDPOINTS: Any = {
    "apiVersion": "v1",
    "kind": "Endpoints",
    "metadata": {"name": "db"},
    "subsets": [{"addresses": [{"ip": "203.0.113.7"}], "ports": [{"port": 5432}]}],
}
NETWORK: Any = {
    "Network": "10.244.0.0/16",
    "EnableIPv6": True,
    "IPv6Network": "fd00:10:244::/56",
    "SubnetLen": 24,
    "SubnetMin": "10.244.1.0",
    "SubnetMax": "10.244.9.0",
    "Backend": {"Type": "vxlan", "VNI": 7, "Port": 8472, "MTU": 1400, "DirectRouting": True},
}
FLANNEL: Any = {"name": "cbr0", "plugins": [{"type": "flannel", "delegate": {"type": "bridge"}}, {"type": "portmap"}]}
CONFIG_MAP: Any = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "net"},
    "data": {"net-conf.json": json.dumps(NETWORK), "cni-conf.json": json.dumps(FLANNEL)},
}
LAB: Any = {
    "apiVersion": "percale.io/v1alpha1",
    "kind": "Lab",
    "spec": {
        "network": NETWORK,
        "segments": [{"name": "a", "cidr": "192.168.7.0/24", "cidr6": "fd00:7::/64", "mtu": 1500}, {"name": "b"}],
        "nodes": [{"name": "n1", "segment": "a", "labels": {"zone": "a"}, "address": "192.168.7.9"}, {"name": "n2"}],
        "hosts": [{"name": "out", "address": "8.8.8.8", "ports": ["80", "53/UDP"]}],
        "serviceCIDR": "10.96.0.0/16,fd00:10:96::/108",
        "loadBalancers": "198.51.100.0/24",
    },
}
MANIFESTS: Any = [
    *documents("examples/*.yaml", "examples/policies/*.yaml", "examples/services/*.yaml", "examples/lab/*.yaml"),
    *documents("examples/matrix/*.yaml"),
    *(LEASE, NODE, POD, SERVICE, SLICE, ENDPOINTS, CONFIG_MAP, LAB),
    {"apiVersion": "v1", "kind": "List", "items": [NODE, POD, SERVICE, SLICE, LEASE]},
]
PLANS = documents("examples/plan/*.yaml")
CASES = documents("tests/cases/own/*.yaml", "tests/cases/policy-e2e/e2e-*.yaml")
CONFIGURATION: Any = {
    "store": "files:/objects",
    "node": "n1",
    "network": NETWORK,
    "http": "127.0.0.1:9099",
    "iface": ["eth0"],
    "ifaceRegex": ["eth.*"],
    "ifaceCanReach": "10.0.0.1",
    "publicIP": "10.0.0.2",
    "publicIPv6": "fd00::2",
    "ipMasq": True,
    "stateDir": "/var/lib/percale",
    "cni": {"socket": "/run/cni.sock", "wiring": "bridge", "bridge": "cni0", "binDir": None},
    "services": {
        "cidrs": ["10.96.0.0/12"],
        "nodePortAddresses": ["10.0.0.0/8"],
        "leastConnInterval": 5.0,
        "healthz": "*:1",
    },
}
CNI_CONFIGURATION: Any = {
    "cniVersion": "1.1.0",
    "name": "percale",
    "type": "percale-cni",
    "mtu": 1400,
    "wiring": "routed",
    "runtimeConfig": {
        "ips": ["10.244.0.9/24"],
        "mac": "02:00:00:00:00:07",
        "bandwidth": {"ingressRate": 8000, "ingressBurst": 8000, "egressRate": 0, "egressBurst": 0},
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}],
    },
    "prevResult": {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": "/x"}],
        "ips": [{"address": "10.244.0.9/24"}],
    },
    "cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}],
}
CNI_VARIABLES: Any = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_UID=u",
    "CNI_PATH": "/opt/cni/bin",
}
RECORD: Any = {
    "network": "percale",
    "netns": "/run/netns/x",
    "mac": "02:00:00:00:00:07",
    "mtu": 1450,
    "addresses": ["10.244.0.9/24"],
    "ingress": {"rate": 8000, "burst": 8000},
    "pod": {"namespace": "default", "name": "a"},
    "ports": [{"port": 8080, "container": 80, "protocol": "TCP", "address": "127.0.0.1"}],
}
JOURNAL: Any = [
    {"do": "allocate", "container": "c1", "ifname": "eth0", "addresses": ["10.244.0.5"], "pod": "default/a"},
    {"do": "release", "container": "c1", "ifname": "eth0"},
    {"do": "rest", "address": "10.244.0.5"},
]
STATE: Any = {"machine": "ab" * 16, "subnet": "10.244.0.0/24", "ipv6Subnet": "fd00::/64"}
STATUS: dict[str, Any] = {"node": "n1"}
QUESTION: Any = {"from": "default/a", "to": "svc/web", "port": 80, "protocol": "TCP"}
REQUESTS: Any = [
    {
        "verb": "get",
        "wanted": [{"kind": "pods"}, {"kind": "all"}],
        "namespace": None,
        "everywhere": True,
        "wide": True,
        "selector": "app=web",
        "after": None,
    },
    {
        "verb": "get",
        "wanted": [{"kind": "svc", "names": ["web"]}],
        "namespace": "default",
        "everywhere": False,
        "wide": False,
        "selector": "",
        "after": {"revision": 7, "patience": 0.01},
    },
    {
        "verb": "apply",
        "documents": [["m.yaml", json.dumps(POD)], ["s.yaml", json.dumps(SERVICE)]],
        "namespace": None,
        "validate": "strict",
    },
    {
        "verb": "delete",
        "wanted": [{"kind": "pod", "names": ["a"]}],
        "namespace": "default",
        "everywhere": False,
        "selector": "",
    },
    {"verb": "delete_documents", "documents": [["m.yaml", json.dumps(POD)]], "namespace": None},
    {"verb": "scale", **_chosen("deployment", "web"), "replicas": 3},
    {"verb": "label", **_chosen("pod", "a"), "put": {"a": "b"}, "drop": ["app"]},
    {
        "verb": "probe",
        "source": "a",
        "target": "svc/web",
        "port": "80",
        "namespace": None,
        "version": 6,
        "timeout_seconds": 0.1,
    },
    {"verb": "room", "target": "node/node1", "namespace": None},
    {"verb": "describe", "wanted": [{"kind": "pods"}], "namespace": None, "everywhere": True, "selector": ""},
    {"verb": "logs", "target": "default/a", "namespace": None, "after": 0, "patience": 0.01},
    *({"verb": verb} for verb in ("about", "status", "missing", "hosts", "names")),
]
