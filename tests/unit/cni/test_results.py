"""Results in each version's format, joined to what others of the chain said; errors with their codes."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from percale.cni.results import (
    VERSIONS,
    CniError,
    Device,
    GivenAddress,
    after,
    as_cni_error,
    encode_error,
    encode_result,
    result,
)
from percale.errors import KernelError, LabError, PercaleError, StateError, StoreUnavailable, SubnetFull

OURS = result(
    [Device("pcl1", "ee:ee:ee:ee:ee:ee", 1450), Device("eth0", "02:00:00:00:00:01", 1450, "/run/netns/p")],
    [
        GivenAddress(ip_interface("10.1.0.7/32"), ip_address("169.254.1.1"), 1),
        GivenAddress(ip_interface("fd00::7/128"), ip_address("fe80::1"), 1),
    ],
    {ip_network("0.0.0.0/0"): ip_address("169.254.1.1"), ip_network("::/0"): ip_address("fe80::1")},
)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_result_in_its_versions_format(version: str) -> None:
    answer: dict[str, Any] = json.loads(encode_result(OURS, version))
    families = [given.pop("version", None) for given in answer["ips"]]
    mtus = [interface.pop("mtu", None) for interface in answer["interfaces"]]
    assert families == (["4", "6"] if version < "1.0.0" else [None, None])
    assert mtus == ([1450, 1450] if version == "1.1.0" else [None, None])
    assert answer == {
        "cniVersion": version,
        "interfaces": [
            {"name": "pcl1", "mac": "ee:ee:ee:ee:ee:ee"},
            {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/p"},
        ],
        "ips": [
            {"address": "10.1.0.7/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00::7/128", "gateway": "fe80::1", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
        "dns": {},
    }


def test_after_others_their_interfaces_keep_their_positions() -> None:
    before = {
        "interfaces": [{"name": "lo", "sandbox": "/run/netns/p"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
        "dns": {"nameservers": ["10.96.0.10"]},
    }
    joined = after(before, OURS)
    assert [interface["name"] for interface in joined["interfaces"]] == ["lo", "pcl1", "eth0"]
    assert [given["interface"] for given in joined["ips"]] == [0, 2, 2]
    assert joined["dns"] == {"nameservers": ["10.96.0.10"]}


@pytest.mark.parametrize("before", [{}, {"interfaces": None, "ips": None, "routes": None, "dns": None}])
def test_after_others_that_said_nothing(before: dict[str, Any]) -> None:
    assert after(before, OURS) == OURS


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CniError(7, "x"), 7),
        (StateError("x"), 5),
        (StoreUnavailable("x"), 11),
        (SubnetFull("x"), 100),
        (KernelError("x", errno=1), 101),
        (LabError("x"), 999),
    ],
)
def test_the_code_of_an_error_of_another_layer(error: PercaleError, code: int) -> None:
    assert as_cni_error(error).code == code


def test_an_error_says_what_where_and_what_next() -> None:
    error = as_cni_error(SubnetFull("10.1.0.0/24 is full (254 of 254)", where="node n1", hint="enlarge it"))
    assert json.loads(encode_error(error, "0.4.0")) == {
        "cniVersion": "0.4.0",
        "code": 100,
        "msg": "node n1: 10.1.0.0/24 is full (254 of 254); enlarge it",
    }
