"""What of the pools is in use, and what is wrong with blocks."""

from __future__ import annotations

from typing import Any

from percale.ipam.pool_usage import IpamProblem, IpamWorld, Usage, problems, usage
from percale.model.addresses import parse_network
from percale.model.ip_pool import AddressBlock, IPPool, IPPoolSpec, IPReservation, IPReservationSpec, make_block
from percale.model.manifest.decoders import converted
from percale.model.meta import ObjectMeta
from percale.model.pod import Pod

POOL = IPPool(metadata=ObjectMeta(name="p"), spec=IPPoolSpec(cidr="10.245.0.0/24", blockSize=28))


def block(cidr: str, node: str = "n1") -> AddressBlock:
    return make_block(parse_network(cidr), node)


def pod(name: str, address: str, node: str = "n1", *, phase: str = "Running", host: bool = False) -> Pod:
    spec: dict[str, Any] = {"nodeName": node, "hostNetwork": host, "containers": [{"name": "c"}]}
    status = {"phase": phase, "podIP": address, "podIPs": [{"ip": address}]}
    return converted({"metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": status}, Pod)


def world(*objects: Any, nodes: tuple[str, ...] = ("n1", "n2")) -> IpamWorld:
    def of(kind: type[Any]) -> list[Any]:
        return [each for each in objects if isinstance(each, kind)]

    return IpamWorld([POOL, *of(IPPool)], of(IPReservation), of(AddressBlock), of(Pod), frozenset(nodes))


def told(*objects: Any, nodes: tuple[str, ...] = ("n1", "n2")) -> list[str]:
    return [each.what for each in problems(world(*objects, nodes=nodes))]


def test_what_is_used_is_reserved_and_is_free() -> None:
    cidrs = ("10.245.0.0/30", "10.245.0.0/29", "192.0.2.0/24")
    reservation = IPReservation(metadata=ObjectMeta(name="r"), spec=IPReservationSpec(reservedCIDRs=cidrs))
    pods = (
        pod("a", "10.245.0.1"),
        pod("b", "10.245.0.9"),
        pod("done", "10.245.0.10", phase="Succeeded"),
        pod("host", "10.245.0.11", host=True),
        pod("elsewhere", "10.246.0.1"),
    )
    found = list(usage(world(block("10.245.0.16/28", "n2"), block("10.245.0.0/28"), reservation, *pods), blocks=True))
    assert found == [
        Usage("IP Pool", "p", "10.245.0.0/24", 256, 2, 7, 247),
        Usage("Block", "n1", "10.245.0.0/28", 16, 2, 7, 7),
        Usage("Block", "n2", "10.245.0.16/28", 16, 0, 0, 16),
    ]
    assert len(list(usage(world(block("10.245.0.0/28")), blocks=False))) == 1


def test_nothing_is_wrong() -> None:
    objects = (block("10.245.0.0/28"), block("10.245.0.16/28", "n2"), pod("a", "10.245.0.1"), pod("b", "10.9.0.1"))
    assert told(*objects) == []


def test_a_block_of_a_node_that_is_gone_leaks() -> None:
    leaked = block("10.245.0.0/28", "gone")
    assert list(problems(world(leaked))) == [
        IpamProblem("block 10.245.0.0/28 is of node gone, which is gone", "10.245.0.0/28")
    ]
    assert list(problems(world(leaked, pod("a", "10.245.0.1", "gone")))) == [
        IpamProblem("block 10.245.0.0/28 is of node gone, which is gone, with 1 pod", None)
    ]


def test_what_contradicts_is_told() -> None:
    assert told(block("10.246.0.0/28")) == ["block 10.246.0.0/28 of node n1 is in no IP pool"]
    assert told(block("10.245.0.0/28"), block("10.245.0.0/30", "n2")) == [
        "block 10.245.0.0/28 of node n1 overlaps 10.245.0.0/30 of node n2"
    ]
    assert told(pod("a", "10.245.0.1")) == ["pod ns/a has 10.245.0.1, which is in no block"]
    assert told(block("10.245.0.0/28"), pod("a", "10.245.0.1", "n2")) == [
        "pod ns/a of node n2 has 10.245.0.1 of node n1"
    ]
    assert told(block("10.245.0.0/28"), pod("a", "10.245.0.1"), pod("b", "10.245.0.1")) == [
        "10.245.0.1 is the address of pods ns/a and ns/b"
    ]
