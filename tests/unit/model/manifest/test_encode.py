"""What is written is what was meant: every object survives JSON and YAML, and other YAML readers see the same texts."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from percale.model.clusternetworkpolicy import (
    ClusterNetworkPolicy,
    ClusterNetworkPolicyEgressPeer,
    ClusterNetworkPolicyEgressRule,
    ClusterNetworkPolicyProtocol,
    ClusterNetworkPolicySpec,
    ClusterNetworkPolicySubject,
    NamespacedPod,
    Port,
    PortRange,
    ProtocolPorts,
)
from percale.model.configmap import ConfigMap
from percale.model.manifest.decode import decode_manifest
from percale.model.manifest.encode import to_json, to_plain
from percale.model.manifest.yaml_writer import plain_to_yaml
from percale.model.meta import Object, ObjectMeta, OwnerReference
from percale.model.networkpolicy import (
    IPBlock,
    NetworkPolicy,
    NetworkPolicyEgressRule,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
)
from percale.model.pod import Container, ContainerPort, Pod, PodIP, PodSpec, PodStatus
from percale.model.selector import LabelSelector, LabelSelectorRequirement
from percale.model.service import Service, ServicePort, ServiceSpec
from percale.model.subnet_lease import SubnetLeaseSpec, make_lease

TRICKY = [
    "true",
    "yes",
    "n",
    "~",
    "",
    "null",
    "0x10",
    "1e3",
    "08",
    "1_000",
    "12:30",
    "2024-01-01",
    "- a",
    "a: b",
    "#",
    "\\- x",
    "<<",
]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(TRICKY)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
labels = st.dictionaries(texts, texts, max_size=3)
metadata = st.builds(
    ObjectMeta,
    name=names,
    namespace=names,
    labels=labels,
    annotations=labels,
    ownerReferences=st.lists(
        st.builds(OwnerReference, kind=texts, name=texts, controller=st.booleans()), max_size=1
    ).map(tuple),
)
ports = st.integers(1, 65535)
protocols = st.sampled_from(["TCP", "UDP", "SCTP"])
words = st.from_regex(r"[a-z]([-a-z0-9]{0,6}[a-z0-9])?", fullmatch=True).filter(lambda word: "--" not in word)
"""Good for all names of objects that are validated."""
selectors = st.builds(
    LabelSelector,
    matchLabels=st.dictionaries(words, words | st.just(""), max_size=2),
    matchExpressions=st.lists(
        st.builds(LabelSelectorRequirement, key=words, operator=st.just("In"), values=st.tuples(words))
        | st.builds(LabelSelectorRequirement, key=words, operator=st.sampled_from(["Exists", "DoesNotExist"])),
        max_size=2,
    ).map(tuple),
)
peers = (
    st.builds(NetworkPolicyPeer, podSelector=selectors, namespaceSelector=st.none() | selectors)
    | st.just(NetworkPolicyPeer(ipBlock=IPBlock(cidr="10.0.0.0/8", except_=("10.1.0.0/16",))))
)  # fmt: skip
policy_ports = st.builds(NetworkPolicyPort, protocol=protocols, port=st.none() | ports | words)
valid_metadata = st.builds(
    ObjectMeta, name=words, labels=st.dictionaries(words, words, max_size=2), annotations=st.dictionaries(words, texts)
)


def some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=2).map(tuple)


policies = st.builds(
    NetworkPolicy,
    metadata=valid_metadata.map(lambda meta: replace(meta, namespace="n")),
    spec=st.builds(
        NetworkPolicySpec,
        podSelector=selectors,
        policyTypes=some(st.sampled_from(["Ingress", "Egress"])),
        ingress=some(st.builds(NetworkPolicyIngressRule, from_=some(peers), ports=some(policy_ports))),
        egress=some(st.builds(NetworkPolicyEgressRule, to=some(peers), ports=some(policy_ports))),
    ),
)
cluster_peers = (
    st.builds(ClusterNetworkPolicyEgressPeer, namespaces=selectors)
    | st.builds(
        ClusterNetworkPolicyEgressPeer,
        pods=st.builds(NamespacedPod, namespaceSelector=selectors, podSelector=selectors),
    )
    | st.just(ClusterNetworkPolicyEgressPeer(networks=("10.0.0.0/8", "fd00::/8")))
    | st.builds(ClusterNetworkPolicyEgressPeer, nodes=selectors)
)
cluster_protocols = st.builds(
    ClusterNetworkPolicyProtocol,
    udp=st.builds(
        ProtocolPorts,
        destinationPort=st.builds(Port, number=ports) | st.just(Port(range=PortRange(start=1, end=65535))),
    ),
)
cluster_policies = st.builds(
    ClusterNetworkPolicy,
    metadata=valid_metadata,
    spec=st.builds(
        ClusterNetworkPolicySpec,
        tier=st.sampled_from(["Admin", "Baseline"]),
        priority=st.integers(0, 1000),
        subject=st.builds(ClusterNetworkPolicySubject, namespaces=selectors),
        egress=some(
            st.builds(
                ClusterNetworkPolicyEgressRule,
                action=st.sampled_from(["Accept", "Deny", "Pass"]),
                to=st.lists(cluster_peers, min_size=1, max_size=2).map(tuple),
                protocols=some(cluster_protocols),
                name=st.none() | texts,
            )
        ),
    ),
)
pods = st.builds(
    Pod,
    metadata=metadata,
    spec=st.builds(
        PodSpec,
        containers=some(
            st.builds(
                Container,
                name=texts,
                command=some(texts),
                ports=some(st.builds(ContainerPort, containerPort=ports, protocol=protocols, name=st.none() | texts)),
            )
        ),
        nodeName=st.none() | texts,
        nodeSelector=labels,
        hostNetwork=st.booleans(),
    ),
    status=st.builds(
        PodStatus,
        phase=st.sampled_from([None, "Running"]),
        podIPs=some(st.builds(PodIP, ip=st.ip_addresses().map(str))),
    ),
)
services = st.builds(
    Service,
    metadata=metadata,
    spec=st.builds(
        ServiceSpec,
        selector=labels,
        ports=some(st.builds(ServicePort, port=ports, targetPort=st.none() | ports | texts)),
    ),
)
config_maps = st.builds(ConfigMap, metadata=metadata, data=labels)
leases = st.builds(
    make_lease,
    st.builds(
        SubnetLeaseSpec,
        node=texts,
        subnet=st.sampled_from([IPv4Network("10.1.2.0/24"), IPv4Network("10.9.0.0/16")]),
        ipv6Subnet=st.none() | st.just(IPv6Network("fd00::/64")),
        publicIP=st.none() | st.just(IPv4Address("192.0.2.1")),
        backendData=st.none() | st.dictionaries(texts, texts | st.integers(0, 9), max_size=2),
    ),
)
objects = policies | cluster_policies | pods | services | config_maps | leases


@given(objects)
def test_every_object_survives(obj: Object) -> None:
    assert decode_manifest(to_json(obj), "a.json").objects == (obj,)
    assert decode_manifest(to_json(obj), "a.yaml").objects == (obj,)
    assert decode_manifest(plain_to_yaml(to_plain(obj)).encode(), "a.yaml").objects == (obj,)


@given(objects)
def test_a_closer_look_at_json_sees_the_same(obj: Object) -> None:
    spoilt = json.dumps(json.loads(to_json(obj)) | {"extra": None}, indent=1)  # as people write it
    listed = json.dumps(
        {"apiVersion": "v1", "kind": "List", "items": [json.loads(spoilt), {"apiVersion": "x/v1", "kind": "Unknown"}]}
    )
    manifest = decode_manifest(listed.encode(), "a.json")
    assert manifest.objects == (obj,)
    assert len(manifest.skipped) == 1


def test_kind_comes_first_and_equal_objects_are_equal_bytes() -> None:
    first = ConfigMap(metadata=ObjectMeta(name="a"), data={"x": "1", "y": "2"})
    second = ConfigMap(metadata=ObjectMeta(name="a"), data={"y": "2", "x": "1"})
    assert to_json(first) == to_json(second)
    assert to_json(first).startswith(b'{"apiVersion":"v1","kind":"ConfigMap","metadata":')
