"""Routing daemons: a pod opens no session with one, and tells none that a neighbour is up.

A pod's packets leave its node with the node's address, which is a neighbour's wherever else they arrive.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from tests.kernel.adversary import frames
from tests.kernel.adversary.attacks_tunnels import plainly, send
from tests.kernel.adversary.worlds import NODE_ADDRESSES, Family, World, attack
from tests.waiting import until

BGP_PORTS = (179, 1790)
BFD_PORTS = (3784, 3785, 4784)
UP = bytes((0x20, 0xC0, 3, 24)) + bytes((0, 0, 0, 1)) * 2 + (100000).to_bytes(4, "big") * 2 + bytes(4)
"""A BFD control packet of a session that is up (RFC 5880, 4.1)."""


def messages(mark: bytes = b"") -> Iterator[frames.Segment]:
    """The first packet to each port."""
    for port in BGP_PORTS:
        yield frames.Segment(frames.TCP, struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 1024, 0, 0) + mark, 16)
    for port in BFD_PORTS:
        yield frames.udp(49152, port, UP + mark)


def dropped(world: World, node: str, family: Family) -> int:
    """Packets that this node's guards have dropped."""
    table = {4: "ip", 6: "ip6"}[family]
    told = re.search(r"packets (\d+)", world.nodes[node].sh("nft", f"list counter {table} percale spoofed"))
    assert told is not None
    return int(told[1])


@attack(only=("bgp",))
def a_message_to_another_nodes_routing_daemon(world: World, family: Family) -> None:
    """It would come from the attacker's node. That node drops it."""
    for number in (1, 2):
        there = f"n{3 - number}"
        with world.attempt(there) as attempt:
            for segment in messages(attempt.forbidden):
                send(world, f"attacker{number}", NODE_ADDRESSES[family][2 - number], segment)
            attempt.control(there, plainly(world, f"friend{number}", f"victim{3 - number}", family))


@attack(only=("bgp",))
def a_message_to_its_own_nodes_routing_daemon(world: World, family: Family) -> None:
    """The daemon does not hear it."""
    for number in (1, 2):
        node, before = f"n{number}", dropped(world, f"n{number}", family)
        sent = list(messages())
        for segment in sent:
            send(world, f"attacker{number}", NODE_ADDRESSES[family][number - 1], segment)

        def all_dropped(node: str = node, expected: int = before + len(sent)) -> bool:
            return dropped(world, node, family) == expected

        until(all_dropped, f"{node} hears none of {len(sent)}")
