"""Small random worlds: few names, labels, addresses and ports, so that everything meets everything."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any, TypeAlias, TypeVar

import msgspec
from hypothesis import strategies as st

from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.namespace import Namespace
from percale.model.networkpolicy import NetworkPolicy
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec
from percale.policy.rule_terms import FlowProtocol

T = TypeVar("T", bound=Object)
Removal: TypeAlias = tuple[type[Object], ObjectKey]
Change: TypeAlias = Object | Removal
"""An object is put, or the object of this kind and key is removed."""

NAMESPACES = ("x", "y")
NODES = {"n1": ("192.168.1.1", "fd01::1"), "n2": ("192.168.1.2", "fd01::2")}
POD_ADDRESSES = ("10.0.1.1", "10.0.1.2", "10.0.2.1", "10.0.2.2")
POD_ADDRESSES6 = ("fd00::1:1", "fd00::2:1")
ELSEWHERE = ("203.0.113.7", "2001:db8::7")
LEASES = ("10.0.8.0/24", "10.0.9.0/24")
"""Their names as well."""
IN_LEASES = ("10.0.8.0", "10.0.8.1", "10.0.9.0", "fd00::9:1")
"""Of nodes by their leases."""
ADDRESSES = (
    *POD_ADDRESSES,
    *POD_ADDRESSES6,
    *(each for both in NODES.values() for each in both),
    *ELSEWHERE,
    *IN_LEASES,
)
PORTS: tuple[tuple[FlowProtocol, int | None], ...] = (
    ("TCP", 80),
    ("TCP", 81),
    ("UDP", 80),
    ("SCTP", 80),
    ("ICMP", None),
)
PORT_NAMES = ("web", "dns")
CIDRS = (
    "0.0.0.0/0",
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.1.1/32",
    "192.168.1.2/32",
    "203.0.113.0/24",
    "::/0",
    "fd00::/112",
)

_KEYS, _VALUES = ("a", "b"), ("", "1", "2")
_labels = st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES))
_numbers = st.sampled_from((79, 80, 81, 82))
_protocols = st.sampled_from(("TCP", "UDP", "SCTP"))


def _record(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these fields may be left out."""
    return st.fixed_dictionaries({}, optional=fields)


def _one_of_record(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Exactly one of these fields."""
    return st.one_of([st.fixed_dictionaries({name: values}) for name, values in fields.items()])


_requirements = st.one_of(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from((*_KEYS, "kubernetes.io/metadata.name")),
            "operator": st.sampled_from(("In", "NotIn")),
            "values": st.lists(st.sampled_from((*_VALUES, "x")), min_size=1, max_size=2),
        }
    ),
    st.fixed_dictionaries({"key": st.sampled_from(_KEYS), "operator": st.sampled_from(("Exists", "DoesNotExist"))}),
)
_NOT_B = {"key": "b", "operator": "NotIn", "values": ["2", "1"]}
_HAS_A = {"key": "a", "operator": "Exists"}
_selectors = st.one_of(
    _record(matchLabels=_labels, matchExpressions=st.lists(_requirements, max_size=2)),
    # The same selector spelled in several ways, met again and again.
    st.sampled_from(
        (
            {},
            {"matchLabels": {"a": ""}},
            {"matchExpressions": [_HAS_A, _NOT_B]},
            {"matchExpressions": [_NOT_B, _HAS_A]},
            {"matchExpressions": [{**_NOT_B, "values": ["1", "2"]}, _HAS_A]},
        )
    ),
)


@st.composite
def _blocks(draw: st.DrawFn) -> dict[str, Any]:
    cidr = draw(st.sampled_from(CIDRS))
    if draw(st.booleans()):
        return {"cidr": cidr}
    inside = ("10.0.1.1/32", "10.0.1.0/24") if "." in cidr else ("fd00::1:0/112",)
    return {"cidr": cidr, "except": draw(st.lists(st.sampled_from(inside), max_size=2))}


_peers = st.one_of(
    st.just({"namespaceSelector": {}}),
    st.fixed_dictionaries({"podSelector": _selectors}, optional={"namespaceSelector": _selectors}),
    st.fixed_dictionaries({"namespaceSelector": _selectors}),
    st.fixed_dictionaries({"ipBlock": _blocks()}),
)


_USUAL_PORTS: tuple[dict[str, Any], ...] = (
    {},
    {"port": 80},
    {"port": 80, "protocol": "UDP"},
    {"protocol": "SCTP"},
    {"port": 79, "endPort": 81},
    {"port": 80, "endPort": 82, "protocol": "UDP"},
    {"port": "web"},
    {"port": "web", "protocol": "UDP"},
)


@st.composite
def _ports(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        return draw(st.sampled_from(_USUAL_PORTS))
    port = draw(_record(protocol=_protocols, port=st.one_of(_numbers, st.sampled_from(PORT_NAMES))))
    if isinstance(port.get("port"), int) and draw(st.booleans()):
        port["endPort"] = draw(st.integers(port["port"], 82))
    return port


def _rules(side: str) -> st.SearchStrategy[Any]:
    return st.lists(
        _record(**{side: st.lists(_peers, max_size=2), "ports": st.lists(_ports(), max_size=2)}), max_size=2
    )


def _narrow_rules(side: str) -> st.SearchStrategy[Any]:
    peers, ports = (st.lists(each, min_size=1, max_size=2) for each in (_peers, _ports()))
    rule = st.one_of(st.fixed_dictionaries({side: peers}), st.fixed_dictionaries({side: peers, "ports": ports}))
    return st.lists(rule, min_size=1, max_size=2)


_policy_names = st.fixed_dictionaries(
    {"name": st.sampled_from(("p", "q", "r")), "namespace": st.sampled_from(NAMESPACES)}
)
_network_policies = st.fixed_dictionaries(
    {
        "metadata": _policy_names,
        "spec": _record(
            podSelector=_selectors,
            policyTypes=st.lists(st.sampled_from(("Ingress", "Egress")), unique=True),
            ingress=_rules("from"),
            egress=_rules("to"),
        ),
    }
)

_EVERYBODY: dict[str, Any] = {"namespaces": {}}
_namespaced_pods = _record(namespaceSelector=_selectors, podSelector=_selectors)
_destination_port = _one_of_record(
    number=_numbers, range=st.sampled_from(({"start": 79, "end": 80}, {"start": 81, "end": 82}))
)
_cluster_protocols = st.one_of(
    _one_of_record(
        tcp=_record(destinationPort=_destination_port),
        udp=_record(destinationPort=_destination_port),
        sctp=_record(destinationPort=_destination_port),
        destinationNamedPort=st.sampled_from(PORT_NAMES),
    ),
    st.just({"quic": {}}),
)
_sources = st.one_of(
    st.just(_EVERYBODY), _one_of_record(namespaces=_selectors, pods=_namespaced_pods), st.just({"planets": {}})
)
_destinations = st.one_of(
    st.just(_EVERYBODY),
    _one_of_record(
        namespaces=_selectors,
        pods=_namespaced_pods,
        nodes=_selectors,
        networks=st.lists(st.sampled_from(CIDRS), min_size=1, max_size=2),
        domainNames=st.just(["example.org"]),
    ),
    st.just({"planets": {}}),
)


def _cluster_rules(side: str, peers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    rule = st.fixed_dictionaries(
        {"action": st.sampled_from(("Accept", "Deny", "Pass")), side: st.lists(peers, min_size=1, max_size=2)},
        optional={"protocols": st.lists(_cluster_protocols, min_size=1, max_size=2)},
    )
    return st.lists(rule, min_size=1, max_size=3)


_cluster_policies = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries({"name": st.sampled_from(("c", "d", "e"))}),
        "spec": st.fixed_dictionaries(
            {
                "tier": st.sampled_from(("Admin", "Baseline")),
                "priority": st.sampled_from((0, 1)),
                "subject": st.one_of(st.just(_EVERYBODY), _one_of_record(namespaces=_selectors, pods=_namespaced_pods)),
            },
            optional={"ingress": _cluster_rules("from", _sources), "egress": _cluster_rules("to", _destinations)},
        ),
    }
)

_container_ports = st.fixed_dictionaries(
    {"containerPort": _numbers}, optional={"name": st.sampled_from(PORT_NAMES), "protocol": _protocols}
)


@st.composite
def _pods(draw: st.DrawFn) -> dict[str, Any]:
    node = draw(st.sampled_from((None, *NODES)))
    on_host = node is not None and draw(st.sampled_from((False, False, False, True)))
    ips = list(NODES[node or "n1"]) if on_host else draw(_pod_ips)
    return {
        "metadata": {
            "name": draw(st.sampled_from(("u", "v", "w"))),
            "namespace": draw(st.sampled_from(NAMESPACES)),
            "labels": draw(_labels),
            **draw(_record(deletionTimestamp=st.just("2026-01-02T00:00:00Z"))),
            **draw(_record(creationTimestamp=st.sampled_from(("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z")))),
        },
        "spec": {
            "containers": [{"name": "c", "ports": draw(st.lists(_container_ports, max_size=2))}],
            "hostNetwork": on_host,
            **({"nodeName": node} if node else {}),
        },
        "status": {
            "phase": draw(st.sampled_from(("Running", "Pending", "Succeeded", "Failed"))),
            "podIPs": [{"ip": ip} for ip in ips],
        },
    }


_pod_ips = st.one_of(
    st.lists(st.sampled_from(POD_ADDRESSES), max_size=1),
    st.tuples(st.sampled_from(POD_ADDRESSES), st.sampled_from(POD_ADDRESSES6)).map(list),
    st.sampled_from([[each] for each in POD_ADDRESSES6]),
    st.just(["10.0.1.1", "10.0.1.1"]),
)

_namespaces = st.fixed_dictionaries(
    {"metadata": st.fixed_dictionaries({"name": st.sampled_from(NAMESPACES), "labels": _labels})}
)


@st.composite
def _nodes(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(tuple(NODES)))
    addresses = NODES[draw(st.sampled_from((name, name, name, "n1")))]  # a node may come back under another name
    entries = [{"type": "InternalIP", "address": each} for each in addresses[: draw(st.sampled_from((2, 2, 1, 0)))]]
    return {
        "metadata": {"name": name, "labels": draw(_labels)},
        "status": {"addresses": [*entries, {"type": "Hostname", "address": name}]},
    }


@st.composite
def _leases(draw: st.DrawFn) -> SubnetLease:
    """One may change hands, and get a second family."""
    subnet = draw(st.sampled_from(LEASES))
    ipv6 = draw(st.sampled_from((None, IPv6Network("fd00::9:0/112"))))
    spec = SubnetLeaseSpec(node=draw(st.sampled_from(tuple(NODES))), subnet=IPv4Network(subnet), ipv6Subnet=ipv6)
    return SubnetLease(metadata=ObjectMeta(name=subnet), spec=spec)


def _objects(kind: type[T], content: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[T]:
    return content.map(lambda value: msgspec.convert(value, kind))


busy_policies: st.SearchStrategy[Object] = _objects(
    NetworkPolicy,
    st.fixed_dictionaries(
        {
            "metadata": _policy_names,
            "spec": st.fixed_dictionaries(
                {
                    "podSelector": st.one_of(st.just({}), _record(matchLabels=_labels)),
                    "policyTypes": st.just(["Ingress", "Egress"]),
                    "ingress": _narrow_rules("from"),
                    "egress": _narrow_rules("to"),
                }
            ),
        }
    ),
)
"""Policies that isolate in both directions, mostly everybody, and allow something."""

puts: st.SearchStrategy[Object] = st.one_of(
    _objects(Pod, _pods()),
    _objects(Pod, _pods()),
    _objects(NetworkPolicy, _network_policies),
    _objects(NetworkPolicy, _network_policies),
    _objects(ClusterNetworkPolicy, _cluster_policies),
    _objects(Namespace, _namespaces),
    _objects(Node, _nodes()),
    _leases(),
)

placings: st.SearchStrategy[Object] = st.one_of(_objects(Pod, _pods()), _objects(Node, _nodes()), _leases())
"""Who has which address."""

removals: st.SearchStrategy[Removal] = st.one_of(
    *(
        st.tuples(st.just(kind), st.builds(ObjectKey, st.sampled_from(NAMESPACES), st.sampled_from(names)))
        for kind, names in ((Pod, ("u", "v", "w")), (NetworkPolicy, ("p", "q", "r")))
    ),
    *(
        st.tuples(st.just(kind), st.builds(ObjectKey, st.none(), st.sampled_from(names)))
        for kind, names in (
            (ClusterNetworkPolicy, ("c", "d", "e")),
            (Namespace, NAMESPACES),
            (Node, tuple(NODES)),
            (SubnetLease, LEASES),
        )
    ),
)

changes: st.SearchStrategy[Change] = st.one_of(
    puts, puts, puts, removals, _objects(Namespace, _namespaces), _objects(ClusterNetworkPolicy, _cluster_policies)
)


@st.composite
def worlds(draw: st.DrawFn) -> list[Object]:
    """Two nodes, four running pods with addresses of their own in two namespaces, and policies that mean many of them."""
    found: list[Object] = [msgspec.convert(_node(name, list(ips)), Node) for name, ips in NODES.items()]
    found += [msgspec.convert({"metadata": {"name": name, "labels": draw(_labels)}}, Namespace) for name in NAMESPACES]
    for index, (namespace, name) in enumerate((("x", "u"), ("x", "v"), ("y", "u"), ("y", "v"))):
        ips = [POD_ADDRESSES[index], *([POD_ADDRESSES6[index // 2]] if index % 2 else [])]
        found.append(
            msgspec.convert(
                {
                    "metadata": {"name": name, "namespace": namespace, "labels": draw(_labels)},
                    "spec": {
                        "nodeName": tuple(NODES)[index // 2],
                        "containers": [
                            {"name": "c", "ports": draw(st.lists(_container_ports, min_size=1, max_size=2))}
                        ],
                    },
                    "status": {"phase": "Running", "podIPs": [{"ip": ip} for ip in ips]},
                },
                Pod,
            )
        )
    found += draw(st.lists(_objects(Pod, _pods()), max_size=2))
    found += draw(st.lists(_objects(NetworkPolicy, _network_policies), min_size=1, max_size=3))
    found += draw(st.lists(_objects(ClusterNetworkPolicy, _cluster_policies), min_size=1, max_size=4))
    return found


def _node(name: str, addresses: list[str]) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"a": name[-1]}},
        "status": {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]},
    }
