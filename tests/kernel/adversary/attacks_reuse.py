"""An address that another pod gets: what the last one had established ends with it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from tests.kernel.adversary import frames
from tests.kernel.adversary.worlds import Family, World, attack
from tests.kernel.agent.cluster import Pod
from tests.kernel.agent.policies import PORT, allowing, selecting
from tests.waiting import until

_ATTACKERS = ("attacker1", "attacker2")
_CLIENT = 41000
"""Their port, always the same."""
_WHILE = 2.0
"""Seconds in which the new pod is attacked."""


def exchange(world: World, family: Family, server: str) -> None:
    """Datagrams between the attackers and the pod, there and back."""
    target = world.address(server, family)
    for attacker in _ATTACKERS:
        until(lambda attacker=attacker: world.pods[attacker].reaches(target), "it is open")  # type: ignore[misc]
        own = world.address(attacker, family)
        for _ in range(5):
            send(world, attacker, target, b"hi", family)
            time.sleep(0.01)
            answer = frames.packet(target, own, frames.udp(PORT, _CLIENT, b"hi"))
            world.inject(server, world.frame(server, answer, own))
            time.sleep(0.01)


def send(world: World, attacker: str, target: str, mark: bytes, family: Family) -> None:
    packet = frames.packet(world.address(attacker, family), target, frames.udp(_CLIENT, PORT, mark))
    with suppress(OSError):  # the pod's own MAC may be unknown in between
        world.inject(attacker, world.frame(attacker, packet, target))


def send_all(world: World, target: str, mark: bytes, family: Family) -> None:
    for attacker in _ATTACKERS:
        send(world, attacker, target, mark, family)


@contextmanager
def sending(each: Callable[[], object]) -> Iterator[None]:
    """All the time."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.002):
            each()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def added(pod: Pod) -> Pod:
    """The address is free once agents know that the last pod's object is gone."""
    answers: list[str] = []

    def accepted() -> bool:
        plugin = pod.launch("ADD")
        answers.append(plugin.communicate(timeout=60)[0])
        return plugin.returncode == 0

    until(accepted, "it gets the address")
    pod.addresses = tuple(each["address"].partition("/")[0] for each in json.loads(answers[-1])["ips"])
    return pod


@attack()
def flows_with_the_last_pod_of_an_address(world: World, family: Family) -> None:
    """Attackers, near and far, go on with datagrams to an open pod while an isolated one gets its address."""
    old, new, node = f"old{family}", f"new{family}", world.nodes["n1"]
    world.policies.policy(old, {**selecting(old), "ingress": [{}]})
    world.policies.policy(new, allowing(new, "friend1"))
    last = world.pods[old] = world.policies.pod(node, old)
    target = world.address(old, family)
    exchange(world, family, old)
    world.cluster.namespace(new)
    with world.attempt(new) as attempt:
        last.cni("DEL")
        del world.pods[old]
        world.policies.remove("Pod", old)
        world.policies.declare(node, new, wanted=",".join(last.addresses))
        with sending(partial(send_all, world, target, attempt.forbidden, family)):
            pod = added(Pod(node, new))
            assert pod.addresses == last.addresses
            world.policies.declare(node, new, *pod.addresses)
            time.sleep(_WHILE)
        world.pods[new] = pod
        attempt.control(new, partial(world.datagram, "friend1", target, PORT))
    pod.cni("DEL")
    del world.pods[new]
    world.policies.remove("Pod", new)
    for name in (old, new):
        world.policies.remove("NetworkPolicy", name)
