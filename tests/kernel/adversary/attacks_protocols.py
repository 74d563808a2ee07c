"""Other protocols than those that policies name: no port opens the way to them, and what forbids a flow ends theirs too."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from functools import partial

from tests.kernel.adversary import frames
from tests.kernel.adversary.attacks_identities import from_a_friend, shut_in
from tests.kernel.adversary.worlds import Family, World, attack
from tests.kernel.agent.policies import PORT, selecting
from tests.waiting import until

DCCP, SCTP, UDP_LITE, EXPERIMENT = 33, 132, 136, 253
OTHERS = (4, frames.UDP, DCCP, 41, 47, 50, 51, 55, 94, 115, SCTP, 135, UDP_LITE, 137, 139, EXPERIMENT, 254)
"""UDP among them: only TCP's port is open."""


def lookalike(protocol: int, mark: bytes, source: int = 40000, target: int = PORT) -> frames.Segment:
    """Begins as TCP and UDP do, with the ports."""
    return frames.Segment(protocol, struct.pack(">HHHH", source, target, 8 + len(mark), 0) + mark)


@attack()
def bytes_that_look_like_ports(world: World, family: Family) -> None:
    """A policy lets TCP in at one port: no other protocol gets in that has the number where TCP has it."""
    name = f"porty{family}"
    rule = {"from": [selecting("attacker1"), selecting("attacker2")], "ports": [{"port": PORT}]}
    world.policies.policy(name, {**selecting(name), "ingress": [rule]})
    pod = world.pods[name] = world.policies.pod(world.nodes["n1"], name)
    try:
        with world.attempt(name) as attempt:
            target = world.address(name, family)
            for attacker in ("attacker1", "attacker2"):
                own = world.address(attacker, family)
                for protocol in OTHERS:
                    packet = frames.packet(own, target, lookalike(protocol, attempt.forbidden))
                    world.inject(attacker, world.frame(attacker, packet, target))
                for extensions in ((frames.options(),), (frames.fragment(),)) if family == 6 else ():
                    packet = frames.packet(own, target, lookalike(frames.UDP, attempt.forbidden), extensions=extensions)
                    world.inject(attacker, world.frame(attacker, packet, target))

            def by_tcp(mark: bytes) -> None:
                syn = frames.tcp_syn(40000 + time.monotonic_ns() % 20000, PORT)
                with_mark = frames.Segment(syn.protocol, syn.body + mark, syn.checksum_at)
                packet = frames.packet(world.address("attacker1", family), target, with_mark)
                world.inject("attacker1", world.frame("attacker1", packet, target))

            attempt.control(name, by_tcp)
    finally:
        pod.cni("DEL")
        del world.pods[name]
        world.policies.remove("NetworkPolicy", name)
        world.policies.remove("Pod", name)


@attack()
def flows_of_other_protocols_that_began_before(world: World, family: Family) -> None:
    """There was no policy when they were established: one that comes ends them as it ends those of TCP and UDP."""
    name = f"before{family}"
    with shut_in(world, name):
        world.policies.remove("NetworkPolicy", name)
        own, there = world.address(name, family), world.address("attacker2", family)

        def say(mark: bytes, protocol: int) -> None:
            packet = frames.packet(own, there, lookalike(protocol, mark))
            world.inject(name, world.frame(name, packet, there))

        def stopped(send: Callable[[bytes], None]) -> bool:
            with world.sniffing("attacker2") as attempt:
                send(attempt.forbidden)
                attempt.control("attacker2", partial(from_a_friend, world, "attacker2", family))
                return not attempt.arrived()

        protocols = (frames.UDP, EXPERIMENT, UDP_LITE, 47)
        with world.attempt("attacker2") as attempt:
            for protocol in protocols:
                attempt.control("attacker2", partial(say, protocol=protocol))
                back = frames.packet(there, own, lookalike(protocol, b"yes", PORT, 40000))
                world.inject("attacker2", world.frame("attacker2", back, own))
        world.policies.policy(name, {**selecting(name), "policyTypes": ["Egress"]})
        for protocol in protocols:  # flows are judged behind the policy's commit
            until(lambda protocol=protocol: stopped(partial(say, protocol=protocol)), f"{protocol} is cut")  # type: ignore[misc]
        with world.attempt("attacker2") as attempt:
            for protocol in protocols:
                say(attempt.forbidden, protocol)
            attempt.control("attacker2", partial(from_a_friend, world, "attacker2", family))
