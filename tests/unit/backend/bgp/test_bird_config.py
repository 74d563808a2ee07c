"""The text, read by the real BIRD: whatever valid objects say, it is a configuration, and no peer harms another."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from percale.backend.bgp.bird_config import bird_config
from percale.backend.bgp.bird_process import find_bird
from percale.backend.bgp.speaker import Prefix, Session, Speaker
from percale.model.bgp import BGPFilterRule, PrefixLengths
from percale.model.ip_family import Family

LOCAL = {Family.IPV4: IPv4Address("192.0.2.1"), Family.IPV6: IPv6Address("2001:db8::1")}
PODS = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/48"))


def speaker(*sessions: Session, **other: object) -> Speaker:
    fields = {
        "router_id": LOCAL[Family.IPV4],
        "addresses": LOCAL,
        "on_link": {ip_network("192.0.2.0/24"): "eth0", ip_network("2001:db8::/64"): "eth0"},
        "networks": PODS,
        "prefixes": (Prefix(ip_network("10.244.1.0/24")), Prefix(ip_network("fd00:244:0:1::/64"))),
        "sessions": sessions,
    }
    return Speaker(**{**fields, **other})  # type: ignore[arg-type]


def session(number: int = 2, version: int = 4, **fields: object) -> Session:
    neighbor = IPv4Address(f"192.0.2.{number}") if version == 4 else IPv6Address(f"2001:db8::{number}")
    given = {
        "name": f"Mesh_{number}_{version}",
        "type": "global",
        "neighbor": neighbor,
        "as_number": 64512,
        "local_as": 64512,
    }
    return Session(**{**given, **fields})  # type: ignore[arg-type]


_ASSUMES_MD5 = "Missing authentication option, assuming MD5"


def refusal(text: str, directory: Path) -> str:
    """What BIRD says of it; nothing when it takes it. 2.17 takes a password with a warning that it means MD5, as in 2.0."""
    program = find_bird()
    assert program is not None
    (directory / "bird.conf").write_text(text)
    command = [program, "-p", "-c", "bird.conf"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=30)
    said = done.stderr.splitlines()
    return "\n".join(line for line in said if done.returncode or not line.endswith(_ASSUMES_MD5))


RULES = {
    version: st.builds(
        BGPFilterRule,
        action=st.sampled_from(["Accept", "Reject"]),
        cidr=st.sampled_from(networks),
        matchOperator=st.sampled_from(["Equal", "NotEqual", "In", "NotIn"]),
        prefixLength=st.none()
        | st.builds(PrefixLengths, min=st.none() | st.integers(0, 24), max=st.none() | st.integers(24, 32)),
        source=st.sampled_from([None, "RemotePeers"]),
    )
    | st.builds(BGPFilterRule, action=st.sampled_from(["Accept", "Reject"]))
    for version, networks in ((4, ["10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32"]), (6, ["fd00::/8", "::/0", "::1/128"]))
}


@st.composite
def sessions(draw: st.DrawFn, number: int) -> Session:
    version = draw(st.sampled_from([4, 6]))
    own, other = draw(st.sampled_from([64512, 4200000000])), draw(st.sampled_from([64512, 64513]))
    return session(
        number,
        version,
        local_as=own,
        as_number=other,
        node=draw(st.sampled_from([None, "n2"])),
        port=draw(st.sampled_from([179, 1790])),
        passive=draw(st.booleans()),
        client_of=draw(st.sampled_from([None, IPv4Address("1.0.0.1")])) if own == other else None,
        password=draw(
            st.none()
            | st.text(st.characters(exclude_characters='"', exclude_categories=("C", "Z")), min_size=1, max_size=20)
        ),
        restart_time=draw(st.none() | st.integers(1, 4095)),
        keepalive=draw(st.none() | st.integers(1, 21845)),
        ttl_hops=draw(st.none() | st.integers(1, 255)),
        next_hop=draw(st.sampled_from(["auto", "self", "keep"])),
        own_as_allowed=draw(st.integers(0, 10)),
        any_source=draw(st.booleans()),
        bfd=draw(st.booleans()),
        imports=tuple(draw(st.lists(RULES[version], max_size=3))),
        exports=tuple(draw(st.lists(RULES[version], max_size=3))),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(first=sessions(2), second=sessions(3), reflector=st.booleans())
def test_every_configuration_is_one(first: Session, second: Session, reflector: bool, tmp_path: Path) -> None:
    text = bird_config(speaker(first, second, reflector=reflector), "/var/log/bird.log").text
    assert refusal(text, tmp_path) == ""


def test_a_line_of_a_session_is_its_own() -> None:
    config = bird_config(speaker(session(2), session(3)), "/log")
    for name in ("Mesh_2_4", "Mesh_3_4"):
        (line,) = (number for number, each in enumerate(config.text.splitlines(), 1) if f"protocol bgp {name} " in each)
        assert config.session_at(line) == name
        assert config.session_at(line - 1) != name
    assert config.session_at(1) is None


@pytest.mark.parametrize("prefix", ["10.244.7.9/32", "10.244.1.0/24"])
def test_bug_blackholes_beat_borrowed_addresses_and_blocks_of_one_address_are_not_told(prefix: str) -> None:
    """calico#3246, calico#2624: own prefixes are told at every length, and none is a route of the kernel."""
    for kind in ("confirmed", "borrowed"):
        text = bird_config(speaker(session(), prefixes=(Prefix(ip_network(prefix), kind),)), "/log").text
        statics = text.partition(f"protocol static {kind}4")[2].partition("}")[0]
        assert f"route {prefix} blackhole;" in statics
        assert "export where source = RTS_BGP" in text


def test_a_reflector_reflects_and_others_tell_their_own_only() -> None:
    reflecting, ordinary = (bird_config(speaker(session(), reflector=each), "/log").text for each in (True, False))
    assert "if net ~ CLUSTER4 then accept;" in reflecting
    assert "if net ~ CLUSTER4 then accept;" not in ordinary
    assert "next hop self" not in reflecting


def test_nodes_tell_of_pods_only_and_nobody_of_ones_own() -> None:
    lines = [line.strip() for line in bird_config(speaker(session(node="n2"), session(3)), "/log").text.splitlines()]
    assert lines.count("if !(net ~ CLUSTER4) then reject;") == 1
    assert lines.count("if net ~ FOREIGN4 then reject;") == 2
    assert any(line.startswith("define FOREIGN4") and "10.244.1.0/24+" in line for line in lines)
