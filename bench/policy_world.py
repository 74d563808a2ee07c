"""A large cluster with policies, deterministic by its seed. Used by the rows of policy: matrix, verdict, kernel.

Namespaces hold 100 pods each and nodes 100 pods each, so that `pods=10_000` is 100 namespaces on 100 nodes. Policies are a mix of
common ones: a default deny, callers by label and by namespace, expressions, address blocks, named ports, ranges, egress.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import IPv4Address

from percale.model.meta import Object, ObjectMeta
from percale.model.namespace import Namespace
from percale.model.networkpolicy import (
    IPBlock,
    NetworkPolicy,
    NetworkPolicyEgressRule,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
)
from percale.model.node import Node, NodeAddress, NodeSpec, NodeStatus
from percale.model.pod import Container, ContainerPort, Pod, PodIP, PodSpec, PodStatus
from percale.model.selector import LabelSelector, LabelSelectorRequirement

NAMESPACE_SIZE = 100
NODE_SIZE = 100

_APPS = 40
_TIERS = ("front", "back", "db")
_VERSIONS = ("v1", "v2", "v3")
_TEAMS = 8
_ENVIRONMENTS = ("prod", "staging", "dev")
_NAMED = ("http", "metrics", "db", "dns")


def policy_world(pods: int = 10_000, policies: int = 1_000, seed: int = 1) -> list[Object]:
    """Namespaces, nodes, pods without owners, and policies."""
    rng = random.Random(seed)
    namespaces = max(1, -(-pods // NAMESPACE_SIZE))
    nodes = max(1, -(-pods // NODE_SIZE))
    return [
        *(_namespace(number) for number in range(namespaces)),
        *(node(number) for number in range(nodes)),
        *(pod(number, number // NAMESPACE_SIZE, number % nodes, number // nodes) for number in range(pods)),
        *(policy(number, number % namespaces, namespaces, rng) for number in range(policies)),
    ]


def node_name(number: int) -> str:
    """`node-0` and on."""
    return f"node-{number}"


def _namespace_name(number: int) -> str:
    return f"ns-{number:03d}"


def _namespace(number: int) -> Namespace:
    labels = {"team": f"team-{number % _TEAMS}", "env": _ENVIRONMENTS[number % len(_ENVIRONMENTS)]}
    return Namespace(metadata=ObjectMeta(name=_namespace_name(number), labels=labels))


def node(number: int) -> Node:
    """With one address, and the pod subnet 10.64.NUMBER.0/24."""
    address = NodeAddress(type="InternalIP", address=str(IPv4Address("172.16.0.2") + number))
    return Node(
        metadata=ObjectMeta(name=node_name(number), labels={"zone": f"zone-{number % 3}"}),
        spec=NodeSpec(podCIDRs=(f"{_pod_subnet(number)}/24",)),
        status=NodeStatus(addresses=(address,)),
    )


def _pod_subnet(node: int) -> IPv4Address:
    return IPv4Address("10.64.0.0") + (node << 8)


def pod(number: int, namespace: int, node: int, index: int) -> Pod:
    """The pod with this index on its node; `number` determines labels and ports."""
    app = (number // 7 + namespace * 3) % _APPS
    address = str(_pod_subnet(node) + 2 + index)
    return Pod(
        metadata=ObjectMeta(
            name=f"pod-{number:05d}",
            namespace=_namespace_name(namespace),
            uid=f"00000000-0000-4000-8000-{number:012d}",
            labels={
                "app": f"app-{app:02d}",
                "tier": _TIERS[number % len(_TIERS)],
                "version": _VERSIONS[number // 11 % len(_VERSIONS)],
            },
        ),
        spec=PodSpec(containers=(Container(name="main", ports=_ports(app, number)),), nodeName=node_name(node)),
        status=PodStatus(phase="Running", podIP=address, podIPs=(PodIP(ip=address),)),
    )


def _ports(app: int, number: int) -> tuple[ContainerPort, ...]:
    """The same port names with different numbers across the cluster."""
    ports = [ContainerPort(name="http", containerPort=(80, 8080, 8000)[app % 3])]
    if number % 2:
        ports.append(ContainerPort(name="metrics", containerPort=9090 + app % 2))
    if app % 4 == 0:
        ports.append(ContainerPort(name="db", containerPort=5432))
    if app % 10 == 0:
        ports.append(ContainerPort(name="dns", containerPort=53, protocol="UDP"))
    return tuple(ports)


def policy(number: int, namespace: int, namespaces: int, rng: random.Random) -> NetworkPolicy:
    """One of the kinds below, by its number."""
    name, spec = _KINDS[number // namespaces % len(_KINDS)](rng, namespaces)
    return NetworkPolicy(
        metadata=ObjectMeta(name=f"{name}-{number:04d}", namespace=_namespace_name(namespace)), spec=spec
    )


def _default_deny(rng: random.Random, namespaces: int) -> tuple[str, NetworkPolicySpec]:
    both = rng.random() < 0.3
    return "default-deny", NetworkPolicySpec(policyTypes=("Ingress", "Egress") if both else ("Ingress",))


def _callers(rng: random.Random, namespaces: int) -> tuple[str, NetworkPolicySpec]:
    peers = tuple(NetworkPolicyPeer(podSelector=_app(rng)) for _ in range(rng.randint(1, 3)))
    rule = NetworkPolicyIngressRule(from_=peers, ports=_numbers(rng))
    return "callers", NetworkPolicySpec(podSelector=_app(rng), ingress=(rule,))


def _expressions(rng: random.Random, namespaces: int) -> tuple[str, NetworkPolicySpec]:
    subject = LabelSelector(
        matchExpressions=(_apps_in(rng, "In"), LabelSelectorRequirement(key="version", operator="Exists"))
    )
    caller = LabelSelector(matchLabels={"tier": "front"}, matchExpressions=(_apps_in(rng, "NotIn"),))
    rule = NetworkPolicyIngressRule(from_=(NetworkPolicyPeer(podSelector=caller),), ports=(_name(rng),))
    return "expressions", NetworkPolicySpec(podSelector=subject, ingress=(rule,))


def _neighbours(rng: random.Random, namespaces: int) -> tuple[str, NetworkPolicySpec]:
    team = LabelSelector(matchLabels={"team": f"team-{rng.randrange(_TEAMS)}"})
    other = LabelSelector(
        matchExpressions=(LabelSelectorRequirement(key="env", operator="NotIn", values=(rng.choice(_ENVIRONMENTS),)),)
    )
    rules = (
        NetworkPolicyIngressRule(
            from_=(NetworkPolicyPeer(namespaceSelector=team, podSelector=_app(rng)),), ports=(_name(rng),)
        ),
        NetworkPolicyIngressRule(from_=(NetworkPolicyPeer(namespaceSelector=other),), ports=_numbers(rng)),
    )
    tier = LabelSelector(matchLabels={"tier": rng.choice(_TIERS)})
    return "neighbours", NetworkPolicySpec(podSelector=tier, ingress=rules)


def _outside(rng: random.Random, namespaces: int) -> tuple[str, NetworkPolicySpec]:
    block = _block(rng)
    ports = (NetworkPolicyPort(port=443), NetworkPolicyPort(port=8000, endPort=8000 + rng.choice((9, 99, 999))))
    rule = NetworkPolicyIngressRule(from_=(NetworkPolicyPeer(ipBlock=block),), ports=ports)
    return "outside", NetworkPolicySpec(podSelector=_app(rng), ingress=(rule,))


def _egress(rng: random.Random, namespaces: int) -> tuple[str, NetworkPolicySpec]:
    names = LabelSelector(matchLabels={"kubernetes.io/metadata.name": _namespace_name(0)})
    dns = NetworkPolicyEgressRule(
        to=(NetworkPolicyPeer(namespaceSelector=names),),
        ports=(NetworkPolicyPort(protocol="UDP", port=53), NetworkPolicyPort(port=53)),
    )
    own = NetworkPolicyEgressRule(to=(NetworkPolicyPeer(podSelector=_app(rng)),), ports=(_name(rng),))
    return "egress", NetworkPolicySpec(podSelector=_app(rng), policyTypes=("Egress",), egress=(dns, own))


def _egress_outside(rng: random.Random, namespaces: int) -> tuple[str, NetworkPolicySpec]:
    rule = NetworkPolicyEgressRule(to=(NetworkPolicyPeer(ipBlock=_block(rng)),), ports=(NetworkPolicyPort(port=443),))
    subject = LabelSelector(matchLabels={"tier": rng.choice(_TIERS), "version": rng.choice(_VERSIONS)})
    return "egress-outside", NetworkPolicySpec(podSelector=subject, policyTypes=("Egress",), egress=(rule,))


_KINDS: tuple[Callable[[random.Random, int], tuple[str, NetworkPolicySpec]], ...] = (
    _default_deny,
    _callers,
    _expressions,
    _neighbours,
    _outside,
    _egress,
    _callers,
    _egress_outside,
    _expressions,
    _callers,
)


def _app(rng: random.Random) -> LabelSelector:
    return LabelSelector(matchLabels={"app": f"app-{rng.randrange(_APPS):02d}"})


def _apps_in(rng: random.Random, operator: str) -> LabelSelectorRequirement:
    values = tuple(sorted(f"app-{each:02d}" for each in rng.sample(range(_APPS), rng.randint(2, 5))))
    return LabelSelectorRequirement(key="app", operator="In" if operator == "In" else "NotIn", values=values)


def _name(rng: random.Random) -> NetworkPolicyPort:
    name = rng.choice(_NAMED)
    return NetworkPolicyPort(protocol="UDP" if name == "dns" else "TCP", port=name)


def _numbers(rng: random.Random) -> tuple[NetworkPolicyPort, ...]:
    """Mostly a port or two; now and then all."""
    numbers = rng.sample((22, 80, 443, 3306, 5432, 6379, 8080, 8443, 9090, 9092), rng.randint(0, 2))
    return tuple(NetworkPolicyPort(port=number) for number in sorted(numbers))


def _block(rng: random.Random) -> IPBlock:
    """Of pods, or of the world outside; some with a hole."""
    if rng.random() < 0.5:
        subnet = _pod_subnet(rng.randrange(100))
        return IPBlock(cidr=f"{subnet}/24", except_=(f"{subnet + 128}/25",) if rng.random() < 0.3 else ())
    network = f"{rng.choice((172, 192, 198))}.{rng.randrange(32, 64)}"
    return IPBlock(cidr=f"{network}.0.0/16", except_=(f"{network}.1.0/24",))
