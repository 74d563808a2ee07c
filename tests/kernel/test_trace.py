"""The way of a probe through real kernels: every hop there and back, by backend, family and protocol, and each fault named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.kernel.conftest import Space
from tests.kernel.nodes import DUAL, Fabric, reaches
from tests.kernel.traces import Way, Words, devices

from percale.kernel.probe_packet import Protocol
from percale.trace.assembly import assemble
from percale.trace.diagnosis import notes
from percale.trace.hops import DeviceHop, RouteHop

TUNNELS = {"vxlan": {4: "flannel.1", 6: "flannel-v6.1"}, "host-gw": {}}


@pytest_asyncio.fixture
async def fabric(new_space: Callable[[], Space]) -> AsyncIterator[Fabric]:
    made = Fabric(new_space)
    yield made
    await made.down()


async def way(fabric: Fabric, backend: str) -> Way:
    """Two nodes that carry packets, and whose agents repair nothing any more."""
    document: dict[str, Any] = {**DUAL, "Backend": {"Type": backend}}
    one, two = await fabric.pair(document)
    await reaches(one, two)
    await fabric.down()
    return Way(fabric, one, two)


@pytest.mark.parametrize("backend", TUNNELS)
async def test_every_hop_there_and_back(fabric: Fabric, backend: str) -> None:
    made = await way(fabric, backend)
    protocols: tuple[Protocol, ...] = ("TCP", "UDP", "ICMP")
    with made.server():
        for version in (4, 6):
            for protocol in protocols:
                found = made.trace(protocol, version)
                tunnel = TUNNELS[backend].get(version)
                over = [f"n1 ▶ {tunnel}"] if tunnel else []
                into = [f"n2 ◀ {tunnel}"] if tunnel else []
                there = ["pod1 ▶ eth0", "n1 ◀ pcl7", *over, "n1 ▶ eth0", "n2 ◀ eth0", *into, "n2 ▶ pcl7", "pod2 ◀ eth0"]
                assert devices(found, "request") == there, (backend, protocol, version)
                back = "error" if protocol == "UDP" else "reply"
                turned = [each.translate(str.maketrans("▶◀", "◀▶")) for each in reversed(there)]
                assert devices(found, back) == turned, (backend, protocol, version)
                assert found.end.outcome == ("refused" if protocol == "UDP" else "answered")
                routes = [hop for hop in found.hops if isinstance(hop, RouteHop) and hop.place == "n1"]
                assert all(hop.error is None for hop in routes), routes
                outers = [hop.outer for hop in found.hops if isinstance(hop, DeviceHop) and hop.direction == "request"]
                assert any(outers) == bool(tunnel)


class Fault(NamedTuple):
    """What a shell line breaks on a node, and what the trace says of it."""

    node: str
    line: str
    outcome: str
    place: str
    what: str
    command: str


FAULTS = {
    "route": Fault(
        "n1",
        "ip route replace blackhole 10.244.2.0/24 proto 112",
        "lost",
        "n1",
        "blackhole 10.244.2.0/24",
        "restart n1",
    ),
    "neighbour": Fault(
        "n1",
        "ip neigh del 10.244.2.0 dev flannel.1",
        "lost",
        "n1",
        "10.244.2.0 has no MAC on flannel.1",
        "n1: ip neigh",
    ),
    "forwarding entry": Fault(
        "n1",
        "bridge fdb del $(ip neigh show 10.244.2.0 dev flannel.1 | cut -d' ' -f3) dev flannel.1",
        "lost",
        "n1",
        "no forwarding entry of flannel.1",
        "restart n1",
    ),
    "wrong VTEP": Fault(
        "n1",
        "mac=$(ip neigh show 10.244.2.0 dev flannel.1 | cut -d' ' -f3); "
        "bridge fdb replace $mac dev flannel.1 dst 192.168.1.77; ip neigh add 192.168.1.77 lladdr 02:00:00:00:00:09 dev eth0",
        "lost",
        "n1",
        "its tunnel sends to 192.168.1.77, and no node has this address",
        "restart n1",
    ),
    "rp_filter": Fault(
        "n2",
        "ip route del 10.244.1.0/24; echo 1 > /proc/sys/net/ipv4/conf/flannel.1/rp_filter",
        "lost",
        "n2",
        "rp_filter drops it at flannel.1: the route back to 10.244.1.7 leads by eth0",
        "n2: sysctl -w net/ipv4/conf/flannel.1/rp_filter=2",
    ),
    "forwarding": Fault(
        "n2", "echo 0 > /proc/sys/net/ipv4/ip_forward", "lost", "n2", "net.ipv4.ip_forward is 0", "n2: sysctl -w"
    ),
    "tunnel's device": Fault(
        "n2", "ip link del flannel.1", "lost", "n2", "takes the tunnel's packets (port unreachable)", "restart n2"
    ),
    "tunnel's port": Fault(
        "n2",
        "nft 'add table ip firewall; add chain ip firewall in { type filter hook input priority 0; }; "
        "add rule ip firewall in udp dport 8472 drop'",
        "dropped",
        "n2",
        "ip firewall in: udp dport 8472 drop",
        "n2: nft delete rule ip firewall in handle 2",
    ),
    "forward policy": Fault(
        "n1",
        "nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
        "dropped",
        "n1",
        "ip filter FORWARD: its policy",
        "n1: nft chain ip filter FORWARD '{ policy accept; }'",
    ),
    "the wire": Fault("n2", "ip link set eth0 down", "lost", "router", "", "router: "),
}
MENDED_BY_ITS_COMMAND = ("forwarding", "tunnel's port", "forward policy", "rp_filter")


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_named_with_what_to_type(fabric: Fabric, name: str) -> None:
    made, fault = await way(fabric, "vxlan"), FAULTS[name]
    with made.server():
        assert made.trace("TCP").end.outcome == "answered"
        made.places[fault.node].sh(fault.line)
        end = made.trace("TCP").end
        assert (end.outcome, end.place) == (fault.outcome, fault.place), end
        assert fault.what in end.what
        assert any(each.startswith(fault.command) for each in end.commands), end
        if name in MENDED_BY_ITS_COMMAND:
            place, _, command = end.commands[0].partition(": ")
            made.places[place].sh(command)
            if name != "rp_filter":  # the route back is still missing
                assert made.trace("TCP").end.outcome == "answered"


async def test_a_tunnel_too_large_for_the_underlay_is_noted(fabric: Fabric) -> None:
    made = await way(fabric, "vxlan")
    assert made.trace("ICMP").notes == ()
    made.one.sh("ip link set eth0 mtu 1400")
    (note,) = made.trace("ICMP").notes
    assert note.startswith("n1: MTU 1450 of flannel.1 and 50 bytes of the tunnel are more than 1400 of eth0")


async def test_an_agent_that_is_not_ready_is_noted_where_the_way_leads_over_its_node(fabric: Fabric) -> None:
    made = await way(fabric, "host-gw")
    evidence = made.evidence("ICMP")
    troubles = {"n2": "it has ended", "n9": "it starts"}
    (note,) = notes(evidence, assemble(evidence), troubles, Words())
    assert note == "the agent of n2 is not ready: it has ended; type: restart n2"


async def test_nothing_stays_armed(fabric: Fabric) -> None:
    made = await way(fabric, "host-gw")
    made.trace("ICMP")
    for place in made.places.values():
        assert "percale_trace" not in place.sh("nft list tables")
        assert place.sh("cat /proc/net/packet").count("\n") == 1
