"""`runtimeConfig.portMappings`: what is asked for, what is no port mapping, and what becomes of it in records and elements."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_interface
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from percale.cni.conflist import from_flannel
from percale.cni.records import Attachment, Records
from percale.cni.requests import RuntimeConfig, requested_ports
from percale.cni.results import CniError
from percale.ipam.address_pool import Owner
from percale.model.addresses import IPAddress
from percale.render.network.pod_veth import PodWires
from percale.render.service.host_ports import HostPort, host_port_elements

ONE, SIX, NODE = ip_address("10.0.0.1"), ip_address("fd00::1"), ip_address("192.168.0.1")


def runtime(*mappings: dict[str, object]) -> RuntimeConfig:
    return msgspec.convert({"portMappings": mappings}, RuntimeConfig)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"hostPort": 81, "containerPort": 80, "protocol": "icmp"}, "'icmp' is not tcp, udp or sctp"),
        ({"hostPort": 81, "protocol": "tcp"}, "host port 81 has no containerPort"),
        ({"hostPort": 70000, "containerPort": 80}, "portMappings[0].hostPort"),
        ({"hostPort": 81, "containerPort": 80, "hostIP": "here"}, "hostIP"),
    ],
)
def test_what_is_no_port_mapping(asked: dict[str, object], message: str) -> None:
    with pytest.raises((CniError, msgspec.ValidationError), match=re.escape(message)):
        requested_ports(runtime(asked))


def test_what_is_asked_for() -> None:
    plain: dict[str, object] = {"hostPort": 81, "containerPort": 80}
    assert requested_ports(runtime(plain, plain, {"hostPort": 0, "containerPort": 80})) == (HostPort(81, 80, "TCP"),)
    asked = runtime({**plain, "protocol": "UDP", "hostIP": "192.168.0.1"}, {**plain, "protocol": "sctp", "hostIP": ""})
    assert requested_ports(asked) == (HostPort(81, 80, "UDP", NODE), HostPort(81, 80, "SCTP"))
    assert requested_ports(RuntimeConfig()) == ()


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [("", "0.0.0.0", True), ("", "", True), ("192.168.0.1", "192.168.0.1", True), ("", "192.168.0.1", False)],
)
def test_one_port_that_leads_to_two(one: str, other: str, clash: bool) -> None:
    """It can lead to one only; the port at one address comes before that at all."""
    asked = runtime(
        {"hostPort": 81, "containerPort": 80, "hostIP": one}, {"hostPort": 81, "containerPort": 90, "hostIP": other}
    )
    if clash:
        with pytest.raises(CniError, match=r"host port 81/TCP.* leads to 80 and to 90"):
            requested_ports(asked)
    else:
        assert len(requested_ports(asked)) == 2


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (None, None, True),
        (None, NODE, True),
        (None, SIX, True),
        (NODE, NODE, True),
        (NODE, ONE, False),
        (ip_address("0.0.0.0"), NODE, True),
        (ip_address("0.0.0.0"), SIX, False),
        (ip_address("::"), NODE, False),
        (ip_address("::"), ip_address("0.0.0.0"), False),
    ],
)
def test_which_ports_some_packet_is_for(one: IPAddress | None, other: IPAddress | None, overlap: bool) -> None:
    first, second = HostPort(81, 80, "TCP", one), HostPort(81, 90, "TCP", other)
    assert first.overlaps(second) == second.overlaps(first) == overlap
    assert not first.overlaps(replace(second, protocol="UDP"))
    assert not first.overlaps(replace(second, port=82))


def test_records_keep_them(tmp_path: Path) -> None:
    ports = (HostPort(81, 80, "TCP"), HostPort(81, 80, "UDP", NODE))
    wires = PodWires("c", "eth0", mac="02:00:00:00:00:01", mtu=1500, addresses=(ip_interface("10.0.0.1/32"),))
    attachment = Attachment(Owner("c", "eth0"), "percale", "/run/netns/a", wires, ports=ports)
    Records(tmp_path).put(attachment)
    assert Records(tmp_path).attachments == {attachment.owner: attachment}


def test_elements() -> None:
    tcp, udp, sctp = b"\6\0\0\0", b"\x11\0\0\0", b"\x84\0\0\0"
    port, container = b"\0\x51\0\0", b"\0\x50\0\0"
    any_address = ip_address("0.0.0.0")
    ports = [HostPort(81, 80, "TCP"), HostPort(81, 80, "UDP", NODE), HostPort(81, 80, "SCTP", any_address)]
    assert list(host_port_elements([ONE, SIX], ports)) == [
        ("hostpods4", ONE.packed * 2, b""),
        ("hostports4", tcp + port, ONE.packed + container),
        ("hostaddressports4", NODE.packed + udp + port, ONE.packed + container),
        ("hostports4", sctp + port, ONE.packed + container),
        ("hostpods6", SIX.packed * 2, b""),
        ("hostports6", tcp + port, SIX.packed + container),
    ]
    assert list(host_port_elements([ONE, SIX], [])) == []


def test_a_chain_with_portmap_leaves_host_ports_to_it() -> None:
    alone = from_flannel('{"plugins": [{"type": "flannel"}]}', "cni-conf.json")
    chained = from_flannel('{"plugins": [{"type": "flannel"}, {"type": "portmap"}]}', "cni-conf.json")
    assert alone["plugins"][0]["capabilities"]["portMappings"]
    assert "portMappings" not in chained["plugins"][0]["capabilities"]


def test_a_pod_has_a_thousand_host_ports_at_most() -> None:
    """Whoever asks for all of them takes the time in which others' pods start and policies change."""
    asked: list[dict[str, object]] = [{"hostPort": number, "containerPort": 80} for number in range(1, 40_001)]
    assert len(requested_ports(runtime(*asked[:1000]))) == 1000
    with pytest.raises(CniError, match="40000 host ports, of 1000 that a pod may have"):
        requested_ports(runtime(*asked))
