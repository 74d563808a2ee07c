"""Compares a world's packets with the evaluator, and its agents with what they were."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeAlias

from tests.kernel.agent.cluster import Node
from tests.kernel.service_world import all_at_once
from tests.soak.world import PORT, VIPS, World
from tests.waiting import until

from percale.model.manifest.decode import decode_manifest
from percale.policy.evaluator import Evaluator
from percale.policy.verdict import Flow

Protocol: TypeAlias = Literal["TCP", "UDP"]
PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")
_ASKED = 12
"""Of all pairs of pods, after each change."""
_PATIENCE = 15.0
"""Seconds until packets do as the evaluator says."""


def check(world: World) -> int:
    """Some flows of all that there are; how many. AssertionError names those that are not as they must be."""
    evaluator = Evaluator(
        obj
        for path in sorted(world.cluster.store.glob("*.yaml"))
        for obj in decode_manifest(path.read_bytes(), str(path)).objects
        if isinstance(obj, Evaluator().kinds)
    )
    wrong: list[str] = []
    questions = _questions(world)

    def right() -> bool:
        seen = all_at_once(partial(_wrong, world, evaluator, *each) for each in questions)
        wrong[:] = [text for text in seen if text is not None]
        return not wrong

    try:
        until(right, patience=_PATIENCE)
    except AssertionError as error:
        raise AssertionError("; ".join(wrong)) from error
    for node in world.nodes:
        until(lambda node=node: not node.status.problems, f"{node.name} has no problem")  # type: ignore[misc]
    return len(questions)


def _questions(world: World) -> list[tuple[str, str, Protocol]]:
    """Client, server or Service, protocol."""
    names = sorted(world.pods)
    targets = [*names, *sorted(world.endpoints)]
    drawn = ((world.random.choice(names), world.random.choice(targets)) for _ in range(_ASKED))
    return [(client, target, world.random.choice(PROTOCOLS)) for client, target in drawn if client != target]


def _wrong(world: World, evaluator: Evaluator, client: str, target: str, protocol: Protocol) -> str | None:
    """What is not as it must be."""
    servers = world.endpoints.get(target, [target])
    allowed = {each for each in servers if _allows(world, evaluator, client, each, protocol)}
    address, port = (VIPS[target], PORT) if target in VIPS else (world.pods[target].addresses[0], 8080)
    seen = world.services.ask(client, address, port, protocol)
    if seen.who in allowed or (not seen.who and allowed != set(servers)) or (not seen.who and not servers):
        return None
    return f"{client} to {target} by {protocol}: {seen.action} {seen.who}, allowed {sorted(allowed)} of {servers}"


def _allows(world: World, evaluator: Evaluator, client: str, server: str, protocol: Protocol) -> bool:
    one, other = (evaluator.flow_end(ip_address(world.pods[name].addresses[0]).packed) for name in (client, server))
    return evaluator.evaluate(Flow(one, other, protocol, 8080)).allowed


@dataclass(frozen=True)
class Usage:
    """Of an agent's process."""

    resident: int
    descriptors: int

    @classmethod
    def of(cls, node: Node) -> Usage:
        pid = node.status.pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len([*Path(f"/proc/{pid}/fd").iterdir()]))


def grown(before: list[Usage], after: list[Usage]) -> Iterator[str]:
    """What is not level."""
    for number, (then, now) in enumerate(zip(before, after, strict=True), 2):
        if now.resident > then.resident + (10 << 20):
            yield f"n{number}: {then.resident >> 20} MiB became {now.resident >> 20}"
        if now.descriptors > then.descriptors + 4:
            yield f"n{number}: {then.descriptors} descriptors became {now.descriptors}"
