"""Leases as annotations of Nodes: flannel's format, both ways, without its defects."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgspec
import pytest
from aiohttp import web
from tests.fake_api_server import FakeApiServer, Request
from tests.unit.store.conftest import upcoming
from tests.unit.store.kubernetes.conftest import NODES, node

from percale.errors import AddressRefused, Conflict, NotFound, StoreUnavailable
from percale.ipam.subnet_lease import Claimant, acquire
from percale.model.netconf import network_config
from percale.model.node import Node
from percale.model.subnet_lease import NodeSubnets, SubnetLease, SubnetLeaseSpec, make_lease
from percale.store.kubernetes.cluster_access import ClusterAccess
from percale.store.kubernetes.node_leases import LeaseFormat
from percale.store.kubernetes.store import KubernetesStore
from percale.store.protocol import Deleted, Snapshot, Upserted

MAC = "12:c6:65:89:b4:e3"
VXLAN = f'{{"VNI":1,"VtepMAC":"{MAC}"}}'
FLANNEL = {"kube_subnet_manager": "true", "backend_type": "vxlan", "backend_data": VXLAN, "public_ip": "192.0.2.1"}
SPEC = SubnetLeaseSpec(
    node="n1",
    subnet=IPv4Network("10.244.1.0/24"),
    publicIP=IPv4Address("192.0.2.1"),
    backendType="vxlan",
    backendData={"VNI": 1, "VtepMAC": MAC},
)
DUAL = msgspec.structs.replace(
    SPEC,
    ipv6Subnet=IPv6Network("fd00:1::/64"),
    publicIPv6=IPv6Address("2001:db8::1"),
    backendV6Data={"VNI": 1, "VtepMAC": MAC},
)
CIDRS = ("10.244.1.0/24", "fd00:1::/64")


def lease_of(*cidrs: str, **annotations: str) -> SubnetLease | None:
    return LeaseFormat().lease_of(msgspec.convert(node("n1", *cidrs, **annotations), Node))


def annotations_in(server: FakeApiServer, name: str = "n1") -> dict[str, str]:
    found = server.read(NODES, name)
    assert found is not None
    return {
        key.removeprefix("flannel.alpha.coreos.com/"): text for key, text in found["metadata"]["annotations"].items()
    }


# Reading


def test_a_node_of_flannel_is_a_lease() -> None:
    lease = lease_of(CIDRS[0], **FLANNEL)
    assert lease is not None
    assert lease.spec == SPEC
    assert lease.metadata.name == "10.244.1.0-24"


@pytest.mark.parametrize("missing", [*FLANNEL, "cidr"])
def test_what_makes_a_lease(missing: str) -> None:
    given = {key: text for key, text in FLANNEL.items() if key != missing}
    lease = lease_of(*([] if missing == "cidr" else [CIDRS[0]]), **given)
    assert (lease is None) == (missing in ("kube_subnet_manager", "public_ip", "cidr"))


def test_a_peer_without_its_ipv6_annotation_is_a_peer_for_ipv4() -> None:
    """flannel ignores it whole."""
    lease = lease_of(*CIDRS, **FLANNEL)
    assert lease is not None
    assert lease.spec.subnets == NodeSubnets(IPv4Network(CIDRS[0]))


@pytest.mark.parametrize("data", ["", "{", "[1]", "7", '{"VtepMAC":{"a":1}}', "null"])
def test_backend_data_that_is_none_leaves_the_lease(data: str) -> None:
    lease = lease_of(CIDRS[0], **{**FLANNEL, "backend_data": data})
    assert lease is not None
    assert lease.spec.backendData is None


def test_a_text_is_what_flannels_extension_backend_publishes() -> None:
    lease = lease_of(CIDRS[0], **{**FLANNEL, "backend_type": "extension", "backend_data": '"said"'})
    assert lease is not None
    assert lease.spec.backendData == "said"


def test_an_address_that_is_none_is_no_address() -> None:
    assert lease_of(CIDRS[0], **{**FLANNEL, "public_ip": "somewhere"}) is None


# Writing


async def test_flannel_reads_what_is_written(server: FakeApiServer, store: KubernetesStore) -> None:
    server.write(NODES, node("n1", *CIDRS))
    written = await store.put(make_lease(DUAL), expect="")
    assert written.spec == DUAL
    assert annotations_in(server) == {
        "kube-subnet-manager": "true",
        "backend-type": "vxlan",
        "backend-data": VXLAN,
        "backend-v6-data": VXLAN,
        "public-ip": "192.0.2.1",
        "public-ipv6": "2001:db8::1",
    }
    patch = server.requests[-1]
    assert patch.rule == ("patch", "nodes/status")
    assert patch.headers["Content-Type"] == "application/strategic-merge-patch+json"
    assert await store.get(SubnetLease, written.key) == written
    assert await store.list(SubnetLease) == [written]


async def test_host_gw_has_null_data_and_ipv4_alone_has_no_ipv6_annotations(
    server: FakeApiServer, store: KubernetesStore
) -> None:
    server.write(NODES, node("n1", *CIDRS))
    spec = msgspec.structs.replace(SPEC, backendType="host-gw", backendData=None)
    assert (await store.put(make_lease(spec))).spec == spec
    expected = {
        "kube-subnet-manager": "true",
        "backend-type": "host-gw",
        "backend-data": "null",
        "public-ip": "192.0.2.1",
    }
    assert annotations_in(server) == expected


async def test_one_family_changes_alone(server: FakeApiServer, store: KubernetesStore) -> None:
    """flannel drops an update if either family is unchanged."""
    server.write(NODES, node("n1", *CIDRS))
    events = store.watch(SubnetLease)
    await upcoming(events)
    first = await store.put(make_lease(DUAL))
    assert await upcoming(events) == Upserted(first)
    moved = msgspec.structs.replace(DUAL, publicIPv6=IPv6Address("2001:db8::2"))
    second = await store.put(make_lease(moved))
    assert await upcoming(events) == Upserted(second)
    assert second.spec == moved


async def test_a_family_without_an_address_keeps_its_subnet(server: FakeApiServer, store: KubernetesStore) -> None:
    server.write(NODES, node("n1", *CIDRS))
    spec = msgspec.structs.replace(DUAL, publicIPv6=None, backendV6Data=None)
    assert (await store.put(make_lease(spec))).spec == spec
    assert annotations_in(server)["percale.io/subnets"] == "10.244.1.0/24,fd00:1::/64"
    await store.put(make_lease(DUAL))
    assert "percale.io/subnets" not in annotations_in(server)


@pytest.mark.parametrize("key", ["public_ip_overwrite", "node_public_ip"])
async def test_an_operators_address_takes_precedence(server: FakeApiServer, store: KubernetesStore, key: str) -> None:
    server.write(NODES, node("n1", CIDRS[0], **{key: "198.51.100.7"}))
    assert (await store.put(make_lease(SPEC))).spec.publicIP == IPv4Address("198.51.100.7")


async def test_the_machines_annotation_comes_back(server: FakeApiServer, store: KubernetesStore) -> None:
    server.write(NODES, node("n1", CIDRS[0]))
    lease = make_lease(SPEC)
    metadata = msgspec.structs.replace(lease.metadata, annotations={"percale.io/machine": "m"})
    written = await store.put(msgspec.structs.replace(lease, metadata=metadata))
    assert written.metadata.annotations == {"percale.io/machine": "m"}
    assert annotations_in(server)["percale.io/machine"] == "m"
    without = msgspec.structs.replace(written.metadata, annotations={})
    await store.put(msgspec.structs.replace(written, metadata=without))
    assert "percale.io/machine" not in annotations_in(server)


async def test_another_prefix(server: FakeApiServer) -> None:
    store = KubernetesStore(ClusterAccess(server=server.url, token="secret"), annotation_prefix="example.org/net")
    server.write(NODES, node("n1", CIDRS[0], **FLANNEL))
    assert await store.list(SubnetLease) == []
    await store.put(make_lease(SPEC))
    assert annotations_in(server)["example.org/net/public-ip"] == "192.0.2.1"
    await store.close()


async def test_deleting_a_lease_leaves_the_operators_annotations(server: FakeApiServer, store: KubernetesStore) -> None:
    server.write(NODES, node("n1", CIDRS[0], public_ip_overwrite="198.51.100.7", **FLANNEL))
    (lease,) = await store.list(SubnetLease)
    with pytest.raises(Conflict):
        await store.delete(SubnetLease, lease.key, expect="another")
    await store.delete(SubnetLease, lease.key)
    assert annotations_in(server) == {"public-ip-overwrite": "198.51.100.7"}
    with pytest.raises(NotFound):
        await store.delete(SubnetLease, lease.key)


# podCIDRs and Nodes that are not as expected


async def test_without_a_node_or_a_pod_cidr_there_is_nothing_to_lease_yet(
    server: FakeApiServer, store: KubernetesStore
) -> None:
    with pytest.raises(StoreUnavailable, match="there is no Node n1; start its kubelet"):
        await store.put(make_lease(SPEC), expect="")
    server.write(NODES, node("n1"))
    with pytest.raises(StoreUnavailable, match="Node n1 has no podCIDR; run kube-controller-manager with"):
        await store.put(make_lease(SPEC), expect="")
    server.write(NODES, node("n1", CIDRS[0]))
    await store.put(make_lease(SPEC), expect="")


async def test_a_changed_pod_cidr_refuses_the_old_lease(server: FakeApiServer, store: KubernetesStore) -> None:
    server.write(NODES, node("n1", "10.244.9.0/24"))
    with pytest.raises(AddressRefused, match=r"the podCIDR is 10.244.9.0/24 now, not 10.244.1.0/24; restart the agent"):
        await store.put(make_lease(SPEC), expect="")


async def test_a_node_that_comes_back_with_another_pod_cidr_is_another_lease(
    server: FakeApiServer, store: KubernetesStore
) -> None:
    server.write(NODES, node("n1", CIDRS[0], **FLANNEL))
    events = store.watch(SubnetLease)
    snapshot = await upcoming(events)
    assert isinstance(snapshot, Snapshot)
    (before,) = snapshot.of(SubnetLease)
    server.write(NODES, node("n1", "10.244.9.0/24", **FLANNEL))
    assert await upcoming(events) == Deleted(before)
    event = await upcoming(events)
    assert isinstance(event, Upserted)
    assert event.object.metadata.name == "10.244.9.0-24"


async def test_a_heartbeat_is_no_event_of_a_lease_or_a_node(server: FakeApiServer, store: KubernetesStore) -> None:
    document = node("n1", CIDRS[0], **FLANNEL)
    server.write(NODES, document)
    events = store.watch(SubnetLease, Node)
    await upcoming(events)
    condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}
    server.write(NODES, {**document, "status": {"conditions": [condition]}})
    assert isinstance((await upcoming(events)).object, Node)  # type: ignore[union-attr]
    server.write(NODES, {**document, "status": {"conditions": [{**condition, "lastHeartbeatTime": "later"}]}})
    server.remove(NODES, "n1")
    gone = [await upcoming(events), await upcoming(events)]
    assert [type(each) for each in gone] == [Deleted, Deleted]


async def test_a_patch_that_loses_a_race_is_tried_again(server: FakeApiServer, store: KubernetesStore) -> None:
    server.write(NODES, node("n1", CIDRS[0]))
    others = ["a", "b"]

    def race(request: Request) -> None:
        if request.verb == "patch" and others:
            document = server.read(NODES, "n1")
            assert document is not None
            server.write(NODES, {**document, "other": others.pop()})

    server.faults.append(race)
    await store.put(make_lease(SPEC), expect="")
    assert annotations_in(server)["public-ip"] == "192.0.2.1"
    assert server.asked("patch", "nodes") == 3


@pytest.mark.parametrize("given", [False, True], ids=["any subnet", "the podCIDR"])
async def test_a_refusal_is_told_and_is_no_lost_race(
    server: FakeApiServer, store: KubernetesStore, given: bool
) -> None:
    server.write(NODES, node("n1", CIDRS[0]))
    subnets = SPEC.subnets if given else None
    claimant = Claimant(
        "n1", "m", (IPv4Address("192.0.2.1"),), lambda _: SPEC, pod_cidrs=subnets, previous=SPEC.subnets
    )
    network = network_config({"Network": "10.244.0.0/16"})
    server.forbidden.add(("patch", "nodes/status"))
    said = "user tester may not patch nodes/status; give its role the verb patch on nodes/status$"
    with pytest.raises(StoreUnavailable, match=said):
        await acquire(store, network, claimant)
    server.forbidden.clear()
    held = await acquire(store, network, claimant)
    status = {"code": 405, "reason": "MethodNotAllowed", "message": "not here"}
    server.faults.append(lambda request: web.json_response(status, status=405) if request.verb == "patch" else None)
    await held.update(SPEC)  # equal: nothing is written
    with pytest.raises(StoreUnavailable, match=r"Node n1 cannot be changed: not here$"):
        await held.update(msgspec.structs.replace(SPEC, publicIP=IPv4Address("192.0.2.2")))


async def test_a_node_that_is_deleted_while_its_lease_is_written(server: FakeApiServer, store: KubernetesStore) -> None:
    server.write(NODES, node("n1", CIDRS[0]))

    def delete(request: Request) -> None:
        if request.verb == "patch":
            server.remove(NODES, "n1")

    server.faults.append(delete)
    with pytest.raises(StoreUnavailable, match="there is no Node n1; start its kubelet"):
        await store.put(make_lease(SPEC), expect="")


async def test_an_equal_lease_writes_nothing(server: FakeApiServer, store: KubernetesStore) -> None:
    server.write(NODES, node("n1", CIDRS[0]))
    await store.put(make_lease(SPEC))
    await store.put(make_lease(SPEC), ttl=60)
    assert server.asked("patch", "nodes") == 1
