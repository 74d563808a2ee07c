"""Traces of real packets: what is decided about new connections, by which rule, and that nothing of the watch stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest
from tests.kernel.conftest import Space
from tests.kernel.flows import FAMILIES, PATIENCE, PORT, A, B, World
from tests.kernel.inside import inside

from percale.kernel.netns import NetnsThread
from percale.kernel.nftables.trace import WATCH_TABLE, TracedVerdict, Tracer
from percale.render.policy.base_chains import EGRESS_NODE, INPUT, OWN_NODE

NODE = {4: "10.244.1.1", 6: "fd00:244:1::1"}
BOTH = pytest.mark.parametrize("version", [4, 6])

ONLY_8080 = f"""\
table inet percale {{
    chain ingress4-web {{
        meta l4proto tcp th dport {PORT} return comment "np:default/web#ingress[0]"
        counter drop comment "no rule allows it: np:default/web"
    }}
}}
add element inet percale ingress4 {{ {B[4]} : jump ingress4-web }}
add element inet percale ingress6 {{ {B[6]} : jump ingress4-web }}
"""


@pytest.fixture
def traced_world(new_space: Callable[[], Space]) -> World:
    made = World(new_space(), new_space(), new_space()).open()
    made.nft(ONLY_8080)
    return made


def tracer(world: World, rate: int = 100) -> Tracer:
    with closing(NetnsThread(world.node.descriptor)) as thread:
        return Tracer(thread, rate)


@pytest.fixture
def watch(traced_world: World) -> Iterator[Tracer]:
    made = tracer(traced_world)
    yield made
    made.close()


def knock(world: World, version: int, port: int, kind: int = socket.SOCK_DGRAM, to: str | None = None) -> None:
    """A packet of a that begins a connection, to b by default."""
    target = to or B[version], port
    with inside(world.a, lambda: socket.socket(FAMILIES[version], kind)) as knocker:
        knocker.setblocking(False)
        if kind == socket.SOCK_STREAM:
            knocker.connect_ex(target)
        else:
            knocker.sendto(b"x", target)


def seen(watch: Tracer, count: int) -> list[TracedVerdict]:
    found: list[TracedVerdict] = []
    end = time.monotonic() + PATIENCE
    while len(found) < count:
        assert time.monotonic() < end, found
        found += watch.verdicts()
        time.sleep(0.01)
    return found


@BOTH
def test_the_rule_that_allows_and_the_one_that_denies_are_named(
    traced_world: World, watch: Tracer, version: int
) -> None:
    knock(traced_world, version, PORT, socket.SOCK_STREAM)
    knock(traced_world, version, 81, socket.SOCK_DGRAM)
    allowed, denied = seen(watch, 2)
    ends = ip_address(A[version]).packed, ip_address(B[version]).packed
    assert (allowed.source, allowed.destination, allowed.protocol, allowed.port) == (*ends, socket.IPPROTO_TCP, PORT)
    assert (allowed.allowed, allowed.rules) == (True, ("np:default/web#ingress[0]",))
    assert (denied.source, denied.destination, denied.protocol, denied.port) == (*ends, socket.IPPROTO_UDP, 81)
    assert (denied.allowed, denied.rules) == (False, ("no rule allows it: np:default/web",))
    assert allowed.source_port


@BOTH
def test_what_a_pod_may_not_send_to_its_own_node_is_seen(traced_world: World, watch: Tracer, version: int) -> None:
    """It finds its neighbour, the node, all the same."""
    traced_world.nft(f"""\
table inet percale {{
    chain egress-node-a {{
        drop comment "cnp:c#egress[0]"
    }}
    chain {INPUT.name} {{
        type filter hook input priority filter; policy accept;
        jump {OWN_NODE}
    }}
}}
add element inet percale {EGRESS_NODE[version]} {{ {A[version]} : jump egress-node-a }}
""")
    knock(traced_world, version, PORT, to=NODE[version])
    (denied,) = seen(watch, 1)
    assert denied.destination == ip_address(NODE[version]).packed
    assert (denied.allowed, denied.rules) == (False, ("cnp:c#egress[0]",))


@BOTH
def test_what_no_policy_looks_at_is_allowed_without_a_rule(traced_world: World, watch: Tracer, version: int) -> None:
    traced_world.open_b()
    traced_world.a.run("ping", "-n", "-c1", B[version])
    (ping,) = seen(watch, 1)
    assert (ping.allowed, ping.rules, ping.port) == (True, (), 0)
    assert ping.protocol == (1 if version == 4 else 58)


def test_a_rule_that_is_changed_meanwhile_is_named_by_its_new_comment(
    traced_world: World, watch: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("percale.kernel.nftables.trace._PAUSE", 0.0)
    knock(traced_world, 4, PORT, socket.SOCK_STREAM)
    seen(watch, 1)
    traced_world.nft('flush chain inet percale ingress4-web\nadd rule inet percale ingress4-web drop comment "new one"')
    knock(traced_world, 4, PORT, socket.SOCK_STREAM)
    assert seen(watch, 1)[0].rules == ("new one",)


def test_established_connections_are_not_traced(traced_world: World, watch: Tracer) -> None:
    wire = traced_world.tcp(4)
    assert len(seen(watch, 1)) == 1
    assert wire.passes()
    assert wire.passes(answers=True)
    assert list(watch.verdicts()) == []
    wire.close()


def test_more_than_the_rate_is_counted_not_traced(traced_world: World) -> None:
    watch = tracer(traced_world, rate=5)
    for port in range(50):
        knock(traced_world, 4, 9000 + port)
    found = seen(watch, 5)
    assert watch.left_out() + len(found) == 50
    assert watch.left_out() > 30
    watch.close()


def test_one_watch_at_a_time_and_nothing_stays(traced_world: World) -> None:
    watch = tracer(traced_world)
    assert WATCH_TABLE in traced_world.node.run("nft", "list", "tables")
    with pytest.raises(OSError, match="another watch is running"):
        tracer(traced_world)
    watch.close()
    assert WATCH_TABLE not in traced_world.node.run("nft", "list", "tables")
    tracer(traced_world).close()


def test_a_killed_watch_leaves_nothing_behind(traced_world: World) -> None:
    script = (
        "import sys, time; from percale.kernel.netns import CurrentNetns; from percale.kernel.nftables.trace import Tracer; "
        "watch = Tracer(CurrentNetns(), 10); print('up', flush=True); time.sleep(60)"
    )
    command = ["nsenter", f"--net={traced_world.node.path}", sys.executable, "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    assert WATCH_TABLE in traced_world.node.run("nft", "list", "tables")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert WATCH_TABLE not in traced_world.node.run("nft", "list", "tables")
