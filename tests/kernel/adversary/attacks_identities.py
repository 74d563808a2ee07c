"""A pod that its policies might lose sight of: its object says that it is over, is gone, or it has one interface more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tests.kernel.adversary.worlds import Attempt, Family, World, attack
from tests.kernel.agent.cluster import Pod
from tests.kernel.agent.policies import PORT, allowing, selecting
from tests.waiting import until

_WHILE = 1.0
"""Seconds in which nodes receive a change."""

_OTHER_PLACES: tuple[dict[str, Any], ...] = ({}, {"nodeName": "n2"}, {"nodeName": "n1", "hostNetwork": True})
"""Where a pod of the same name is said to be: nowhere yet, at another node, on the node's own network."""


@contextmanager
def shut_in(world: World, name: str) -> Iterator[Pod]:
    """A pod of node 1 that may send to nobody."""
    world.policies.policy(name, {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Egress"]})
    pod = world.pods[name] = world.policies.pod(world.nodes["n1"], name)
    try:
        yield pod
    finally:
        pod.cni("DEL")
        del world.pods[name]
        world.policies.remove("NetworkPolicy", name)
        world.policies.declare(pod.node, name)
        world.policies.remove("Pod", name)


def keep_sending(
    world: World, attempt: Attempt, sender: str, family: Family, receivers: tuple[str, ...] = ("attacker1", "attacker2")
) -> None:
    """To both attackers, who take anything, until nodes have received the change; then an allowed one."""
    end = time.monotonic() + _WHILE
    while time.monotonic() < end:
        for receiver in receivers:
            world.datagram(sender, world.address(receiver, family), PORT, attempt.forbidden)
        time.sleep(0.02)
    for receiver in receivers:
        attempt.control(receiver, partial(from_a_friend, world, receiver, family))


def from_a_friend(world: World, receiver: str, family: Family, mark: bytes) -> None:
    world.datagram("friend1", world.address(receiver, family), PORT, mark)


@attack()
def a_pod_that_is_said_to_be_over(world: World, family: Family) -> None:
    """Its phase is Failed, as of pods of an unreachable node, and its processes go on: policies still apply."""
    name = f"over{family}"
    with shut_in(world, name) as pod, world.attempt("attacker1", "attacker2") as attempt:
        spec = {"nodeName": "n1", "containers": [{"name": "main", "image": "none"}]}
        ips = [{"ip": each} for each in pod.addresses]
        world.policies.put(
            "Pod", name, metadata={"labels": {"app": name}}, spec=spec, status={"phase": "Failed", "podIPs": ips}
        )
        keep_sending(world, attempt, name, family)


@attack()
def a_pod_without_an_object(world: World, family: Family) -> None:
    """It is deleted by force, and its processes go on until somebody ends them: policies judge it still."""
    name = f"gone{family}"
    with shut_in(world, name), world.attempt("attacker1", "attacker2") as attempt:
        world.policies.remove("Pod", name)
        keep_sending(world, attempt, name, family)


@attack()
def a_pod_with_two_interfaces(world: World, family: Family) -> None:
    """What it sends by the first and by the second is judged."""
    name = f"twofold{family}"
    with shut_in(world, name) as pod, world.attempt("attacker1", "attacker2") as attempt:
        second = Pod(pod.node, name, ifname="net1")
        second.cni("ADD")
        try:
            keep_sending(world, attempt, name, family)
        finally:
            second.cni("DEL")
        keep_sending(world, attempt, name, family)


@attack()
def a_pod_whose_name_another_has_now(world: World, family: Family) -> None:
    """It is deleted by force, and its name given to a pod of no node, of another, or of a node's network: judged still."""
    for number, place in enumerate(_OTHER_PLACES):
        name = f"anew{number}-{family}"
        with shut_in(world, name), world.attempt("attacker1", "attacker2") as attempt:
            world.policies.remove("Pod", name)
            spec = {**place, "containers": [{"name": "main", "image": "none"}]}
            world.policies.put("Pod", name, metadata={"labels": {"app": name}}, spec=spec, status={"phase": "Pending"})
            keep_sending(world, attempt, name, family)


def added(pod: Pod) -> tuple[bool, str]:
    """Whether the plugin gave it wires, and what it said."""
    plugin = pod.launch("ADD")
    output = plugin.communicate(timeout=60)[0]
    return plugin.returncode == 0, output


@attack()
def asks_for_the_address_of_another_pod(world: World, family: Family) -> None:
    """A friend's wires are gone and its object is not yet, so the victim on node 2 takes its address for a friend's."""
    lender, heir = f"lender{family}", f"heir{family}"
    world.policies.policy(lender, allowing("victim2", lender))
    old = world.policies.pod(world.nodes["n1"], lender)
    until(lambda: old.reaches(world.address("victim2", family)), "the victim hears a friend")
    old.cni("DEL")
    world.policies.declare(old.node, heir, wanted=",".join(old.addresses))
    world.cluster.namespace(heir)
    new = Pod(old.node, heir)
    try:
        with world.attempt("victim2") as attempt:
            succeeded, output = added(new)
            if succeeded:
                new.addresses = old.addresses
                world.pods[heir] = new
                keep_sending(world, attempt, heir, family, ("victim2",))
            else:
                assert f"pod default/{lender}" in output
                attempt.control("victim2", partial(world.datagram, "friend2", world.address("victim2", family), PORT))
        world.policies.remove("Pod", lender)
        until(lambda: added(new)[0], "nobody has it any more")
    finally:
        world.pods.pop(heir, None)
        new.cni("DEL")
        world.policies.remove("Pod", heir)
        world.policies.remove("NetworkPolicy", lender)


WEB, OTHERS_WEB, NEXT_WEB = 7001, 7002, 7003


@attack()
def a_port_name_that_means_another_port_elsewhere(world: World, family: Family) -> None:
    """A rule means the receiver's own port of that name and protocol; when its object changes, the new one alone."""
    named, decoy = f"named{family}", f"decoy{family}"

    def declare(name: str, *addresses: str, **numbers: int) -> None:
        ports = [{"name": "web", "containerPort": number, "protocol": kind} for kind, number in numbers.items()]
        spec = {"nodeName": "n2", "containers": [{"name": "main", "image": "none", "ports": ports}]}
        status = {"phase": "Running", "podIPs": [{"ip": each} for each in addresses]} if addresses else {}
        world.policies.put("Pod", name, metadata={"labels": {"app": name}}, spec=spec, status=status)

    declare(decoy, UDP=OTHERS_WEB)
    declare(named, UDP=WEB)
    rule = {"ports": [{"port": "web", "protocol": "UDP"}, {"port": "other", "protocol": "TCP"}]}
    world.policies.policy(named, {**selecting(named), "ingress": [rule]})
    both = [world.nodes["n2"].pod(each) for each in (decoy, named)]
    declare(decoy, *both[0].addresses, UDP=OTHERS_WEB)
    declare(named, *both[1].addresses, UDP=WEB)
    target = both[1].addresses[family == 6]
    try:
        for now, closed in ((WEB, (OTHERS_WEB, NEXT_WEB)), (NEXT_WEB, (WEB, OTHERS_WEB))):
            declare(named, *both[1].addresses, UDP=now, TCP=WEB)
            time.sleep(_WHILE)
            with world.attempt(named) as attempt:
                for attacker in ("attacker1", "attacker2"):
                    for port in closed:
                        world.datagram(attacker, target, port, attempt.forbidden)
                    attempt.control(named, partial(world.datagram, attacker, target, now))
    finally:
        for pod in both:
            pod.cni("DEL")
            world.policies.remove("Pod", pod.name)
        world.policies.remove("NetworkPolicy", named)
