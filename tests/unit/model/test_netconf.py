"""flannel's net-conf.json: what is read, with which defaults, and what is refused."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from percale.errors import BadNetworkConfig
from percale.model.backend_options import (
    OPTIONS,
    AllocOptions,
    BgpOptions,
    ExtensionOptions,
    HostGwOptions,
    IpipOptions,
    UdpOptions,
    VxlanOptions,
    WireguardOptions,
)
from percale.model.ip_family import Family
from percale.model.netconf import NetworkConfig, network_config, parse_network_config
from percale.secret import Secret

PSK = "A" * 43 + "="
EXAMPLES = Path(__file__).parents[3] / "examples"


def parsed(**document: Any) -> NetworkConfig:
    return parse_network_config(json.dumps(document))


def refused(**document: Any) -> str:
    with pytest.raises(BadNetworkConfig) as caught:
        parsed(**document)
    return str(caught.value)


def ipv4_range(**document: Any) -> tuple[int, str, str]:
    subnets = parsed(**document).families[Family.IPV4]
    return subnets.length, str(subnets.first), str(subnets.last)


def ipv6_range(network: str, **document: Any) -> tuple[int, str, str]:
    subnets = parsed(EnableIPv4=False, EnableIPv6=True, IPv6Network=network, **document).families[Family.IPV6]
    return subnets.length, str(subnets.first), str(subnets.last)


# What operators have


def test_field_vxlan() -> None:
    config = parse_network_config((EXAMPLES / "net-conf-vxlan.json").read_text())
    assert config.networks == (IPv4Network("10.20.0.0/16"),)
    assert (config.backend_type, config.options) == ("vxlan", VxlanOptions())


def test_field_directrouting_is_spelled_as_people_spell_it() -> None:
    config = parse_network_config((EXAMPLES / "net-conf-directrouting.json").read_text())
    assert config.options == VxlanOptions(direct_routing=True)
    assert config.families[Family.IPV4].first == IPv4Network("10.244.10.0/24")
    assert config.families[Family.IPV4].last == IPv4Network("10.244.100.0/24")
    assert config.families[Family.IPV4].count == 91


def test_field_host_gw() -> None:
    config = parse_network_config((EXAMPLES / "net-conf-host-gw.json").read_text())
    assert (config.backend_type, config.options) == ("host-gw", HostGwOptions())


# Keys and defaults


def test_keys_match_in_any_case() -> None:
    config = parsed(network="10.0.0.0/16", SUBNETLEN=26, backend={"TYPE": "VXLAN", "vni": 7, "DIRECTROUTING": True})
    assert config.families[Family.IPV4].length == 26
    assert config.options == VxlanOptions(vni=7, direct_routing=True)


def test_missing_backend_is_vxlan() -> None:
    assert parsed(Network="10.0.0.0/16").backend_type == "vxlan"
    assert parsed(Network="10.0.0.0/16", Backend={"VNI": 5}).options == VxlanOptions(vni=5)


def test_null_is_not_given() -> None:
    assert parsed(Network="10.0.0.0/16", SubnetLen=None, Backend=None) == parsed(Network="10.0.0.0/16")


def test_host_bits_are_masked_off() -> None:
    assert parsed(Network="10.1.2.3/16").networks == (IPv4Network("10.1.0.0/16"),)


def test_nftables_switch_has_no_effect() -> None:
    assert parsed(Network="10.0.0.0/16", EnableNFTables=True) == parsed(Network="10.0.0.0/16")


def test_dual_stack() -> None:
    config = parsed(Network="10.0.0.0/16", EnableIPv6=True, IPv6Network="fd00::/48")
    assert config.networks == (IPv4Network("10.0.0.0/16"), IPv6Network("fd00::/48"))


def test_ipv6_network_without_the_switch_is_ipv4_only() -> None:
    assert parsed(Network="10.0.0.0/16", IPv6Network="fd00::/48").families.keys() == {Family.IPV4}


def test_a_decoded_document_is_read_alike() -> None:
    assert network_config({"Network": "10.0.0.0/16"}) == parsed(Network="10.0.0.0/16")


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("10.0.0.0/8", (24, "10.0.1.0/24", "10.255.255.0/24")),
        ("10.0.0.0/22", (24, "10.0.1.0/24", "10.0.3.0/24")),
        ("10.0.0.0/23", (25, "10.0.0.128/25", "10.0.1.128/25")),
        ("10.0.0.0/28", (30, "10.0.0.4/30", "10.0.0.12/30")),
    ],
)
def test_ipv4_defaults(network: str, expected: tuple[int, str, str]) -> None:
    assert ipv4_range(Network=network) == expected


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("fd00::/48", (64, "fd00:0:0:1::/64", "fd00:0:0:ffff::/64")),
        ("fd00::/62", (64, "fd00:0:0:1::/64", "fd00:0:0:3::/64")),
        ("fd00::/63", (65, "fd00::8000:0:0:0/65", "fd00:0:0:1:8000::/65")),
        ("fd00::/124", (126, "fd00::4/126", "fd00::c/126")),
    ],
)
def test_ipv6_defaults(network: str, expected: tuple[int, str, str]) -> None:
    assert ipv6_range(network) == expected


def test_ranges_as_given() -> None:
    given = {"SubnetLen": 26, "SubnetMin": "10.0.0.64", "SubnetMax": "10.0.0.192"}
    assert ipv4_range(Network="10.0.0.0/16", **given) == (26, "10.0.0.64/26", "10.0.0.192/26")
    given_v6 = {"IPv6SubnetLen": 80, "IPv6SubnetMin": "fd00::1:0:0:0", "IPv6SubnetMax": "fd00:0:0:0:2::"}
    assert ipv6_range("fd00::/48", **given_v6) == (80, "fd00::1:0:0:0/80", "fd00::2:0:0:0/80")


# Limits


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({}, "Network is missing"),
        ({"Network": "10.0.0.0"}, 'Network: "10.0.0.0" is not a network'),
        ({"Network": "10.0.0.0/255.0.0.0"}, "is not a network"),
        ({"Network": "10.0.0.0/33"}, "is not a network"),
        ({"Network": "nonsense/8"}, "is not a network"),
        ({"Network": "fd00::/48"}, "Network: fd00::/48 is IPv6"),
        ({"Network": "10.0.0.0/29"}, "10.0.0.0/29 is too small; the smallest useful network is a /28"),
        ({"SubnetLen": 31}, "SubnetLen: 31 is not a prefix length up to 30"),
        ({"SubnetLen": -1}, "SubnetLen: -1 is not"),
        ({"SubnetLen": 17}, "10.0.0.0/16 holds fewer than four subnets of /17"),
        ({"SubnetLen": 16}, "fewer than four"),
        ({"SubnetLen": "24"}, "SubnetLen: expected int, got str"),
        ({"SubnetMin": "10.1.0.0"}, "SubnetMin: 10.1.0.0 is not in Network 10.0.0.0/16"),
        ({"SubnetMax": "11.0.0.0"}, "SubnetMax: 11.0.0.0 is not in Network"),
        ({"SubnetMin": "10.0.1.5"}, "SubnetMin: 10.0.1.5 is not on a /24 boundary; nearest below: 10.0.1.0"),
        ({"SubnetMax": "10.0.9.128"}, "SubnetMax: 10.0.9.128 is not on a /24 boundary"),
        ({"SubnetMin": "10.0.9.0", "SubnetMax": "10.0.8.0"}, "SubnetMin 10.0.9.0 is above SubnetMax 10.0.8.0"),
        ({"SubnetMin": "fd00::"}, "SubnetMin: fd00:: is IPv6"),
        ({"SubnetMin": "here"}, 'SubnetMin: "here" is not an address'),
        ({"EnableIPv4": False}, "EnableIPv4 and EnableIPv6 are both false"),
        ({"EnableIPv6": True}, "IPv6Network is missing, and EnableIPv6 is true"),
        ({"EnableIPv4": "yes"}, "EnableIPv4: expected bool, got str"),
        ({"Backend": []}, "Backend: expected object, got array"),
        ({"Backend": {"Type": 1}}, "Backend.Type: expected a string"),
        ({"Backend": {"Type": ""}}, 'unknown backend ""'),
    ],
)
def test_ipv4_limits(document: dict[str, Any], what: str) -> None:
    base = {"Network": "10.0.0.0/16"} if document else {}
    message = refused(**{**base, **document})
    assert what in message
    assert message.startswith("net-conf.json: ")


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({"IPv6Network": "10.0.0.0/8"}, "IPv6Network: 10.0.0.0/8 is IPv4"),
        ({"IPv6Network": "fd00::/125"}, "too small; the smallest useful network is a /124"),
        ({"IPv6SubnetLen": 127}, "IPv6SubnetLen: 127 is not a prefix length up to 126"),
        ({"IPv6SubnetLen": 49}, "fewer than four subnets of /49"),
        ({"IPv6SubnetMin": "fd01::"}, "IPv6SubnetMin: fd01:: is not in IPv6Network fd00::/48"),
        ({"IPv6SubnetMax": "fd00:0:0:9::1"}, "IPv6SubnetMax: fd00:0:0:9::1 is not on a /64 boundary"),
        ({"IPv6SubnetMin": "fd00:0:0:9::", "IPv6SubnetMax": "fd00:0:0:8::"}, "is above IPv6SubnetMax"),
    ],
)
def test_ipv6_limits(document: dict[str, Any], what: str) -> None:
    base = {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00::/48"}
    assert what in refused(**{**base, **document})


def test_bug_limits_are_checked_in_every_mode() -> None:
    """flannel checks them with etcd only; here there is no way to a config that was not checked."""
    with pytest.raises(BadNetworkConfig):
        network_config({"Network": "10.0.0.0/29"})


# Backends


def test_every_backend_has_flannels_defaults() -> None:
    defaults = {name: parsed(Network="10.0.0.0/16", Backend={"Type": name}).options for name in OPTIONS}
    assert defaults == {
        "vxlan": VxlanOptions(vni=1, port=8472, mtu=0, gbp=False, learning=False, direct_routing=False),
        "host-gw": HostGwOptions(),
        "bgp": BgpOptions(bfd=False),
        "udp": UdpOptions(port=8285),
        "ipip": IpipOptions(direct_routing=False),
        "wireguard": WireguardOptions(
            listen_port=51820, listen_port_v6=51821, mtu=0, psk=None, persistent_keepalive_interval=0, mode="separate"
        ),
        "alloc": AllocOptions(),
        "extension": ExtensionOptions(),
    }


def test_every_option_by_flannels_name() -> None:
    documents: dict[str, dict[str, Any]] = {
        "vxlan": {"VNI": 9, "Port": 4789, "MTU": 1400, "GBP": True, "Learning": True, "DirectRouting": True},
        "udp": {"Port": 1},
        "ipip": {"DirectRouting": True},
        "wireguard": {
            "ListenPort": 1,
            "ListenPortV6": 2,
            "MTU": 1300,
            "PSK": PSK,
            "PersistentKeepaliveInterval": 25,
            "Mode": "ipv4",
        },
        "extension": {
            "PreStartupCommand": "a",
            "PostStartupCommand": "b",
            "SubnetAddCommand": "c",
            "SubnetRemoveCommand": "d",
        },
    }
    options = {
        name: parsed(Network="10.0.0.0/16", Backend={"Type": name, **document}).options
        for name, document in documents.items()
    }
    assert options == {
        "vxlan": VxlanOptions(9, 4789, 1400, True, True, True),
        "udp": UdpOptions(1),
        "ipip": IpipOptions(True),
        "wireguard": WireguardOptions(1, 2, 1300, Secret(bytes(32)), 25, "ipv4"),
        "extension": ExtensionOptions("a", "b", "c", "d"),
    }


@pytest.mark.parametrize(
    ("backend", "what"),
    [
        ({"VNI": -1}, "Backend.VNI: expected int >= 0"),
        ({"VNI": 1 << 24}, "Backend.VNI: expected int <= 16777215"),
        ({"Port": 0}, "Backend.Port: expected int >= 1"),
        ({"Port": 65536}, "Backend.Port: expected int <= 65535"),
        ({"MTU": "1400"}, "Backend.MTU: expected int, got str"),
        ({"Learning": 1}, "Backend.Learning: expected bool, got int"),
        ({"Type": "wireguard", "Mode": "fast"}, "Backend.Mode: invalid enum value 'fast'"),
        (
            {"Type": "wireguard", "Mode": "ipv6"},
            "Backend.Mode: ipv6 takes nodes' IPv6 addresses, and the network has none",
        ),
        ({"Type": "wireguard", "PSK": 7}, "Backend.PSK: expected a string"),
        (
            {"Type": "wireguard", "PSK": "short"},
            "Backend.PSK: expected base64 of 32 bytes, as wg genkey and wg genpsk print",
        ),
        ({"Type": "wireguard", "PSK": PSK[:-1]}, "Backend.PSK: expected base64 of 32 bytes"),
        ({"Type": "wireguard", "PSK": PSK + "\n"}, "Backend.PSK: expected base64 of 32 bytes"),
        (
            {"Type": "ipsec", "PSK": "x" * 96},
            'Backend.Type: "ipsec" is not offered; use wireguard: it encrypts as well,',
        ),
        ({"Type": "host-gw", "Port": 1}, 'unknown key "Backend.Port"; it takes no options'),
        ({"Type": "alloc", "x": 1}, 'unknown key "Backend.x"; it takes no options'),
        ({"Type": "extension", "SubnetAddCommand": "ip 'x"}, 'Backend.SubnetAddCommand: No closing quotation in "ip'),
        (
            {"Type": "extension", "PreStartupCommand": "a && b"},
            "Backend.PreStartupCommand: `&&` is a shell's, and none",
        ),
        (
            {"Type": "extension", "PreStartupCommand": 'a "$(b)"'},
            "`$(b)` is a shell's, and none reads it: write a script",
        ),
        ({"Type": "extension", "SubnetAddCommand": "a $SUBNT"}, "there is no $SUBNT; there are SUBNET, IPV6SUBNET,"),
        ({"VIN": 3}, 'unknown key "Backend.VIN"; did you mean "VNI"?'),
        ({"Type": "vxlam"}, 'unknown backend "vxlam"; did you mean "vxlan"?'),
        ({"Type": "calico"}, 'unknown backend "calico"; known are vxlan, host-gw,'),
    ],
)
def test_backend_options_are_checked(backend: dict[str, Any], what: str) -> None:
    assert what in refused(Network="10.0.0.0/16", Backend=backend)


@pytest.mark.parametrize(
    ("backend", "previous", "what"),
    [
        ("host-gw", "host-gw", "PreviousBackend.Type: it is Backend.Type, host-gw, too; leave out PreviousBackend"),
        ("host-gw", "vxlam", 'PreviousBackend.Type: unknown backend "vxlam"; did you mean "vxlan"?'),
        ("bgp", "vxlan", "PreviousBackend: nodes have no bgp beside another backend; leave it out: nodes are apart"),
        ("vxlan", "udp", "PreviousBackend: nodes have no udp beside another backend; leave it out: nodes are apart"),
    ],
)
def test_previous_backends_that_cannot_be(backend: str, previous: str, what: str) -> None:
    assert what in refused(Network="10.0.0.0/16", Backend={"Type": backend}, PreviousBackend={"Type": previous})


def test_two_wireguard_devices_need_two_ports() -> None:
    backend = {"Type": "wireguard", "ListenPort": 51821}
    assert parsed(Network="10.0.0.0/16", Backend=backend).options.tunnel_ports == (51821, 51821)
    dual = {"Network": "10.0.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00::/48"}
    assert refused(**dual, Backend=backend) == (
        "net-conf.json: Backend.ListenPortV6: 51821 is ListenPort, too; two devices need two ports"
    )
    assert parsed(**dual, Backend={**backend, "Mode": "auto"}).options.tunnel_ports == (51821,)


def test_no_error_and_no_value_shows_a_key() -> None:
    key = "c2VjcmV0" + "A" * 35 + "="
    for given in (key, key + "x", key[:-2]):
        backend = {"Type": "wireguard", "PSK": given, "Mode": "ipv6"}
        assert "c2VjcmV0" not in refused(Network="10.0.0.0/16", Backend=backend)
    options = parsed(Network="10.0.0.0/16", Backend={"Type": "wireguard", "PSK": key}).options
    assert "psk=Secret" in repr(options)
    assert "c2VjcmV0" not in repr(options)
    assert "secret" not in repr(options)


@pytest.mark.parametrize("name", ["gce", "aws-vpc", "ali-vpc", "GCE"])
def test_removed_cloud_backends_say_what_to_use(name: str) -> None:
    message = refused(Network="10.0.0.0/16", Backend={"Type": name})
    assert f'the cloud backend "{name.lower()}" is not supported; use host-gw' in message


# What is no net-conf.json


def test_bug_unknown_key_names_the_nearest() -> None:
    """flannel ignores it, and the network is another than was meant."""
    assert refused(Netwrok="10.0.0.0/16") == 'net-conf.json: unknown key "Netwrok"; did you mean "Network"?'
    assert 'unknown key "zzz"; known are Network, ' in refused(Network="10.0.0.0/16", zzz=1)


@pytest.mark.parametrize(
    "text", ['{"Network": "10.0.0.0/16", "network": "10.1.0.0/16"}', '{"Network": "10.0.0.0/16", "Network": "x"}']
)
def test_one_key_twice(text: str) -> None:
    with pytest.raises(BadNetworkConfig, match=r"net-conf\.json: .* are the same key; keep one of them"):
        parse_network_config(text)


def test_one_key_twice_in_a_decoded_document() -> None:
    with pytest.raises(BadNetworkConfig, match="same key"):
        network_config({"Network": "10.0.0.0/16", "Backend": {"Port": 1, "port": 2}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n  "Network": "10.0.0.0/16"\n  "SubnetLen": 24\n}', "conf.d/net:3: not JSON: Expecting ',' delimiter"),
        ("", "conf.d/net:1: not JSON: Expecting value"),
        ("[]", 'conf.d/net: expected an object such as {"Network": "10.244.0.0/16"}'),
        ("[" * 100_000, "conf.d/net:1: not JSON: Nested too deep"),
    ],
)
def test_malformed_json_names_file_and_line(text: str, message: str) -> None:
    with pytest.raises(BadNetworkConfig) as caught:
        parse_network_config(text, "conf.d/net")
    assert str(caught.value) == message
