"""subnet.env, flannel's content and order."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from percale.errors import BadConfig
from percale.model.subnet_env import parse_subnet_env, read_variables, subnet_env

IPV4 = (ip_network("10.1.0.0/16"), ip_network("10.1.17.0/24"))
IPV6 = (ip_network("fd00:1::/48"), ip_network("fd00:1:0:11::/64"))
DUAL = """\
FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.17.1/24
FLANNEL_IPV6_NETWORK=fd00:1::/48
FLANNEL_IPV6_SUBNET=fd00:1:0:11::1/64
FLANNEL_MTU=1430
FLANNEL_IPMASQ=true
"""


def test_each_family_of_the_network_has_its_lines() -> None:
    networks, subnets = zip(IPV4, IPV6, strict=True)
    assert subnet_env(networks, subnets, 1430, ip_masq=True) == DUAL
    lines = DUAL.splitlines(keepends=True)
    assert subnet_env(networks[:1], subnets[:1], 1430, ip_masq=True) == "".join(lines[:2] + lines[4:])
    assert subnet_env(networks[1:], subnets[1:], 1430, ip_masq=True) == "".join(lines[2:])
    assert subnet_env(networks, subnets, 1450, ip_masq=False).endswith("FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n")


def test_it_is_read_as_a_shell_reads_it() -> None:
    assert read_variables("# flannel\nA=1 B=\"two words\"\n\nexport_me='x'", "f") == {
        "A": "1",
        "B": "two words",
        "export_me": "x",
    }
    for text, said in (
        ("A=1\nB", "f:2: expected NAME=VALUE"),
        ("=x", "f:1: expected NAME=VALUE"),
        ('A="1', "f:1: not a line of a shell: no closing quotation"),
    ):
        with pytest.raises(BadConfig, match=said):
            read_variables(text, "f")


def test_what_is_written_is_read_back() -> None:
    networks, subnets = zip(IPV4, IPV6, strict=True)
    env = parse_subnet_env(DUAL, "f")
    assert (dict(env.subnets), env.mtu, env.ip_masq) == (dict(zip(networks, subnets, strict=True)), 1430, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f: no subnet in it; it has FLANNEL_NETWORK and FLANNEL_SUBNET"),
        ("FLANNEL_NETWORK=10.1.0.0/16", 'f: FLANNEL_SUBNET is ""; start flanneld again'),
        (DUAL.replace("fd00:1::/48", "all"), 'f: FLANNEL_IPV6_NETWORK is "all"'),
        (DUAL.replace("1430", "big"), 'f: FLANNEL_MTU is "big"'),
    ],
)
def test_a_value_that_cannot_be_is_named(text: str, said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        parse_subnet_env(text, "f")
