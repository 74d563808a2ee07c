"""Who peers with whom, from Calico's objects; and that both ends of every session between nodes agree."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from percale.backend.bgp.backend import plan
from percale.backend.bgp.sessions import BgpObjects, NodeFacts, NodeSessions
from percale.backend.bgp.speaker import Prefix, Session, Speaker
from percale.backend.bgp.world import BgpWorld
from percale.backend.protocol import LocalFamily, LocalNode
from percale.kernel.protocol import Interface
from percale.model.backend_options import BgpOptions
from percale.model.bgp import BGPConfigurationSpec, BGPFilter, BGPPeerSpec, Password, SecretKey
from percale.model.ip_family import Family
from percale.model.manifest.decoders import converted
from percale.model.subnet_lease import LeasedFamily, SubnetLease, SubnetLeaseSpec, make_lease

NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/48"))
RR = NodeFacts({"rr": ""}, IPv4Address("1.0.0.1"))


def node(number: int) -> LocalNode:
    addresses = (ip_interface(f"192.0.2.{number}/24"), ip_interface(f"2001:db8::{number}/64"))
    eth0 = Interface("eth0", 2, "02:00:00:00:00:01", 1500, up=True, carrier=True, addresses=addresses)
    subnets = (ip_network(f"10.244.{number}.0/24"), ip_network(f"fd00:244:0:{number}::/64"))
    families = {f: LocalFamily(s, eth0, a.ip) for f, s, a in zip(Family, subnets, addresses, strict=True)}
    return LocalNode(f"n{number}", families, frozenset())


def lease(number: int) -> SubnetLease:
    families = [
        LeasedFamily(family, each.subnet, each.public_ip, None) for family, each in node(number).families.items()
    ]
    return make_lease(SubnetLeaseSpec.of(f"n{number}", "bgp", families))


def planned(number: int, count: int = 3, **objects: Any) -> tuple[Speaker, NodeSessions]:
    leases = [lease(other) for other in range(1, count + 1) if other != number]
    world = BgpWorld(BgpObjects(**objects), NETWORKS, tuple(map(Prefix, node(number).subnets)))
    return plan(node(number), leases, world, BgpOptions())


def v4(number: int, count: int = 3, **objects: Any) -> Mapping[str, Session]:
    return {
        str(each.neighbor): each for each in planned(number, count, **objects)[1].sessions if each.family is Family.IPV4
    }


def test_a_full_mesh_is_the_default() -> None:
    speaker, found = planned(1)
    assert [(each.name, each.as_number, each.type) for each in found.sessions] == [
        ("Mesh_192_0_2_2", 64512, "node-to-node mesh"),
        ("Mesh_192_0_2_3", 64512, "node-to-node mesh"),
        ("Mesh_2001_db8__2", 64512, "node-to-node mesh"),
        ("Mesh_2001_db8__3", 64512, "node-to-node mesh"),
    ]
    assert [str(each.network) for each in speaker.prefixes] == ["10.244.1.0/24", "fd00:244:0:1::/64"]
    assert (found.problems, found.ignored, speaker.router_id) == ((), (), IPv4Address("192.0.2.1"))


def test_reflectors_are_no_part_of_the_mesh_and_reflect_to_others() -> None:
    objects = {
        "nodes": {"n1": RR, "n2": RR},
        "peers": {"rr": BGPPeerSpec(nodeSelector="all()", peerSelector="has(rr)")},
    }
    assert {address: each.type for address, each in v4(4, 4, **objects).items()} == {
        "192.0.2.1": "node specific",
        "192.0.2.2": "node specific",
        "192.0.2.3": "node-to-node mesh",
    }
    clients = {address: each.client_of for address, each in v4(1, 4, **objects).items()}
    assert clients == {"192.0.2.2": None, "192.0.2.3": RR.reflector, "192.0.2.4": RR.reflector}, (
        "not of its own cluster"
    )
    assert {each.port for each in v4(1, 4, **objects).values()} == {1790}


def test_without_a_mesh_only_what_is_selected() -> None:
    configurations = {"default": BGPConfigurationSpec(nodeToNodeMeshEnabled=False, asNumber="1.10", listenPort=1179)}
    peers = {
        "a": BGPPeerSpec(node="n1", peerIP="192.0.2.254", asNumber=64999, ttlSecurity=2, nextHopMode="Self"),
        "b": BGPPeerSpec(nodeSelector="rack == 'r2'", peerIP="192.0.2.253", asNumber=64999),
        "c": BGPPeerSpec(peerIP="192.0.2.252:1790", asNumber=64999, failureDetectionMode="BFDIfDirectlyConnected"),
    }
    nodes = {"n1": NodeFacts({"rack": "r1"}), "n2": NodeFacts({"rack": "r2"}, as_number=7)}
    one = v4(1, configurations=configurations, peers=peers, nodes=nodes)
    two = v4(2, configurations=configurations, peers=peers, nodes=nodes)
    assert {address: (each.type, each.port) for address, each in one.items()} == {
        "192.0.2.254": ("node specific", 179),
        "192.0.2.252": ("global", 1790),
    }
    assert set(two) == {"192.0.2.253", "192.0.2.252"}
    router = one["192.0.2.254"]
    assert (router.local_as, router.local_port, router.ttl_hops, router.next_hop, router.passive) == (
        65546,
        1179,
        2,
        "self",
        False,
    )
    assert two["192.0.2.253"].local_as == 7
    assert one["192.0.2.252"].bfd


def test_reverse_peering_can_be_left_to_the_operator() -> None:
    peers = {"p": BGPPeerSpec(node="n1", peerSelector="has(rr)", reversePeering="Manual")}
    objects: dict[str, Any] = {
        "nodes": {"n2": RR},
        "peers": peers,
        "configurations": {"default": BGPConfigurationSpec(nodeToNodeMeshEnabled=False)},
    }
    assert set(v4(1, **objects)) == {"192.0.2.2"}
    assert v4(2, **objects) == {}


def test_one_bad_peer_is_left_out_and_named() -> None:
    secret = SecretKey(name="bgp", key="tor")
    peers = {
        "a": BGPPeerSpec(peerIP="192.0.2.254", asNumber=1, filters=("nosuch",)),
        "b": BGPPeerSpec(peerIP="192.0.2.253", asNumber=1, password=Password(secretKeyRef=secret)),
        "c": BGPPeerSpec(peerIP="192.0.2.252", asNumber=1),
    }
    _, found = planned(1, peers=peers)
    assert found.problems == (
        "BGPPeer a is left out: there is no BGPFilter nosuch",
        "BGPPeer b is left out: there is no password: Secret bgp, key tor",
    )
    assert "Global_192_0_2_252" in [each.name for each in found.sessions]
    for wrong in ('a"; }', "x" * 81, "a\nb", ""):
        assert (
            "left out: the password in Secret bgp" in planned(1, peers=peers, passwords={secret: wrong})[1].problems[1]
        )
    right = {each.name: each for each in planned(1, peers=peers, passwords={secret: "correct horse"})[1].sessions}
    assert right["Global_192_0_2_253"].password == "correct horse"


def test_a_port_is_no_part_of_an_address() -> None:
    """BIRD would take neither of two sessions of one name."""
    peers = {
        "a": BGPPeerSpec(peerIP="2001:db8::9:1790", asNumber=1),
        "b": BGPPeerSpec(peerIP="[2001:db8::9]:1790", asNumber=1),
    }
    names = {each.name for each in planned(1, peers=peers)[1].sessions if each.type == "global"}
    assert names == {"Global_2001_db8__9_1790", "Global_2001_db8__9_port_1790"}


def test_filters_are_those_of_the_family_in_their_order() -> None:
    text = {"exportV4": [{"action": "Reject"}], "exportV6": [{"action": "Accept"}, {"action": "Reject"}]}
    filters = {"f": converted({"metadata": {"name": "f"}, "spec": text}, BGPFilter)}
    peers = {
        name: BGPPeerSpec(peerIP=ip, asNumber=1, filters=("f",))
        for name, ip in (("a", "192.0.2.9"), ("b", "2001:db8::9"))
    }
    rules = {str(each.neighbor): each.exports for each in planned(1, 1, peers=peers, filters=filters)[1].sessions}
    assert [each.action for each in rules["192.0.2.9"]] == ["Reject"]
    assert [each.action for each in rules["2001:db8::9"]] == ["Accept", "Reject"]


def test_service_blocks_come_from_every_node_that_is_not_excluded() -> None:
    spec = converted(
        {"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}], "serviceExternalIPs": [{"cidr": "198.51.100.7/32"}]},
        BGPConfigurationSpec,
    )
    nodes = {"n2": NodeFacts(advertises_services=False)}
    one, two = (planned(number, configurations={"default": spec}, nodes=nodes)[0] for number in (1, 2))
    assert list(map(str, one.services)) == ["10.96.0.0/12"], "an address by itself only where a Service has it"
    assert two.services == ()
    assert list(map(str, two.service_blocks)) == ["10.96.0.0/12", "198.51.100.7/32"]


SELECTORS = st.sampled_from(["", "all()", "has(rr)", "!has(rr)", "rack == 'r1'", "rack in {'r1', 'r2'}"])
PEERS = st.builds(
    BGPPeerSpec, node=st.just(""), nodeSelector=SELECTORS, peerSelector=SELECTORS.filter(bool), localASNumber=st.none()
)
FACTS = st.builds(
    NodeFacts,
    st.dictionaries(st.sampled_from(["rr", "rack"]), st.sampled_from(["r1", "r2"])),
    st.sampled_from([None, RR.reflector, IPv4Address("1.0.0.2")]),
    st.sampled_from([None, 64600]),
)


@given(
    st.dictionaries(st.sampled_from("abc"), PEERS),
    st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), FACTS),
    st.booleans(),
)
def test_both_ends_agree(peers: dict[str, BGPPeerSpec], nodes: dict[str, NodeFacts], mesh: bool) -> None:
    configurations = {"default": BGPConfigurationSpec(nodeToNodeMeshEnabled=mesh)}
    ends = {
        (str(node(number).public_ips[each.family is Family.IPV6]), str(each.neighbor), each.port): each
        for number in (1, 2, 3)
        for each in planned(number, peers=peers, nodes=nodes, configurations=configurations)[1].sessions
    }
    for (here, there, port), session in ends.items():
        other = ends[there, here, port]
        assert (session.as_number, session.local_as) == (other.local_as, other.as_number)
        assert session.passive != other.passive
        assert session.passive == (ip_address(here) > ip_address(there))  # type: ignore[operator]
        assert session.local_port == other.port
