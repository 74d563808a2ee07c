"""flannel's keys and values in etcd, byte for byte."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from percale.errors import BadManifest
from percale.model.configmap import ConfigMap
from percale.model.kinds import KINDS
from percale.model.meta import ObjectKey, ObjectMeta
from percale.model.pod import Pod
from percale.model.subnet_lease import RESERVED, BackendData, SubnetLease, SubnetLeaseSpec, lease_name, make_lease
from percale.store.etcd import flannel_format
from percale.store.etcd.layout import Layout
from percale.store.etcd.messages import KeyValue

V4: dict[str, Any] = {"subnet": IPv4Network("10.5.52.0/24"), "publicIP": IPv4Address("192.0.2.7")}
V6: dict[str, Any] = {"ipv6Subnet": IPv6Network("fd00:12:13::/56"), "publicIPv6": IPv6Address("2001:db8::7")}
VTEP: BackendData = {"VNI": 1, "VtepMAC": "12:c6:65:89:b4:e3"}
VTEP6: BackendData = {"VNI": 1, "VtepMAC": "12:c6:65:89:b4:e6"}
LAYOUT = Layout("/coreos.com/network", KINDS)

LEASES = [
    pytest.param(
        SubnetLeaseSpec(node="n1", backendType="vxlan", backendData=VTEP, **V4),
        b"10.5.52.0-24",
        b'{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}}',
        id="IPv4",
    ),
    pytest.param(
        SubnetLeaseSpec(node="n1", backendType="vxlan", backendData=VTEP, backendV6Data=VTEP6, **V4, **V6),
        b"10.5.52.0-24&fd00:12:13::-56",
        b'{"PublicIP":"192.0.2.7","PublicIPv6":"2001:db8::7","BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"},"BackendV6Data":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e6"}}',
        id="dual stack",
    ),
    pytest.param(
        SubnetLeaseSpec(node="n1", backendType="extension", backendData="said", **V4),
        b"10.5.52.0-24",
        b'{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"extension","BackendData":"said"}',
        id="text",
    ),
    pytest.param(
        SubnetLeaseSpec(node="n1", backendType="host-gw", **V6),
        b"0.0.0.0-0&fd00:12:13::-56",
        b'{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::7","BackendType":"host-gw"}',
        id="IPv6",
    ),
]


@pytest.mark.parametrize(("spec", "key", "value"), LEASES)
def test_a_lease_is_written_as_flannel_writes_it_and_read_back(spec: SubnetLeaseSpec, key: bytes, value: bytes) -> None:
    lease = make_lease(spec)
    written = LAYOUT.values(lease)
    subnets, holder = written
    assert (subnets, written[subnets]) == (b"/coreos.com/network/subnets/" + key, value)
    assert (holder, written[holder]) == (b"/coreos.com/network/percale/leases/" + key, b'{"node":"n1"}')
    assert LAYOUT.identity(subnets) == LAYOUT.identity(holder) == (SubnetLease, lease.key)
    found = {each: KeyValue(each, text, lease=7) for each, text in written.items()}
    assert LAYOUT.decoded((SubnetLease, lease.key), found) == lease


@pytest.mark.parametrize(
    ("lease", "annotations"), [(7, {}), (0, {RESERVED: "true"})], ids=["flannel's node", "a reservation"]
)
def test_a_lease_that_only_flannel_wrote_is_of_the_node_of_its_address(lease: int, annotations: dict[str, str]) -> None:
    key = b"/coreos.com/network/subnets/10.5.52.0-24"
    identity = LAYOUT.identity(key)
    assert identity is not None
    found = LAYOUT.decoded(identity, {key: KeyValue(key, b'{"PublicIP":"192.0.2.7","Later":1}', lease=lease)})
    assert isinstance(found, SubnetLease)
    assert found.spec == SubnetLeaseSpec(node="192.0.2.7", **V4)
    assert found.metadata.annotations == annotations


@pytest.mark.parametrize(
    "text", ["", "10.5.52.0", "10.5.52.0-33", "10.5.52.1-24", "10.5.52.0-024", "0.0.0.0-0", "10.5.52.0-24&x-1", "é-24"]
)
def test_a_key_that_is_no_subnet(text: str) -> None:
    with pytest.raises(BadManifest, match=r"not the key of a subnet; one such as 10\.5\.52\.0-24"):
        LAYOUT.identity(b"/coreos.com/network/subnets/" + text.encode())


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[]", b'{"PublicIP": "nowhere"}', b'{"BackendData": 1}', b"\xff", b"[" * 9999]
)
def test_a_value_that_is_no_lease(value: bytes) -> None:
    key = b"/coreos.com/network/subnets/10.5.52.0-24"
    identity = LAYOUT.identity(key)
    assert identity is not None
    with pytest.raises(BadManifest, match="not a lease"):
        LAYOUT.decoded(identity, {key: KeyValue(key, value)})


def test_a_lease_whose_name_is_not_that_of_its_subnets_is_not_written() -> None:
    lease = make_lease(SubnetLeaseSpec(node="n1", **V4))
    for name, what in (("n1", "is not named by its subnets"), ("10.5.53.0-24", r"its subnets are 10\.5\.52\.0/24")):
        with pytest.raises(BadManifest, match=what):
            LAYOUT.values(SubnetLease(metadata=ObjectMeta(name=name), spec=lease.spec))


@pytest.mark.parametrize("parts", [V4, V6, {**V4, **V6}])
def test_the_name_of_a_lease_says_its_subnets(parts: dict[str, Any]) -> None:
    subnets = SubnetLeaseSpec(node="n1", **parts).subnets
    assert flannel_format.lease_key_of_name(lease_name(subnets)).subnets == subnets


def test_the_configuration_is_a_config_map_with_nothing_else() -> None:
    key = b"/coreos.com/network/config"
    text = '{"Network": "10.5.0.0/16"}'
    config_map = ConfigMap(metadata=ObjectMeta(name="net-conf", namespace="kube-flannel"), data={"net-conf.json": text})
    assert LAYOUT.values(config_map) == {key: text.encode()}
    assert LAYOUT.decoded((ConfigMap, config_map.key), {key: KeyValue(key, text.encode())}) == config_map
    with pytest.raises(BadManifest, match=r"has net-conf\.json alone"):
        LAYOUT.values(ConfigMap(metadata=config_map.metadata, data={"net-conf.json": text, "cni-conf.json": "{}"}))


def test_other_objects_have_keys_of_their_own() -> None:
    assert LAYOUT.keys((Pod, ObjectKey("shop", "web/1"))) == (b"/coreos.com/network/percale/objects/Pod/shop/web%2F1",)
    assert LAYOUT.identity(b"/coreos.com/network/percale/objects/Pod/shop/web%2F1") == (Pod, ObjectKey("shop", "web/1"))
    for foreign in (b"/coreos.com/network/percale/objects/Gadget/x", b"/coreos.com/network/other", b"/x"):
        assert LAYOUT.identity(foreign) is None
    with pytest.raises(BadManifest, match="not the key of a Pod"):
        LAYOUT.identity(b"/coreos.com/network/percale/objects/Pod/web")
