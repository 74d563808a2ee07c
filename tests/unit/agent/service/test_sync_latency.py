"""Latency from the store to the kernel, and the health that load balancers see."""

from __future__ import annotations

import json

import pytest

from percale.agent.http.listener import Page
from percale.agent.logging import LineLog
from percale.agent.problems import Problems
from percale.agent.service.proxier_health import MAX_DELAY, ProxierHealth
from percale.agent.service.sync_latency import SyncLatency
from percale.errors import KernelError

TABLE = "table inet percale-services"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def latency(clock: Clock) -> SyncLatency:
    return SyncLatency(clock)


def test_received_changes_are_applied_once_submitted(latency: SyncLatency, clock: Clock) -> None:
    assert latency.waiting == 0
    assert latency.applied() is None, "nothing was on its way"
    assert latency.last_applied is None
    latency.received()
    clock.now += 1
    latency.received()
    clock.now += 1
    assert latency.applied() is None, "nobody has taken it"
    latency.submitted()
    clock.now += 1
    assert latency.waiting == 3
    assert latency.applied() == 3
    assert latency.waiting == 0
    assert latency.last_applied is not None
    assert latency.last_received is not None


def test_changes_received_during_a_commit_belong_to_the_next_transaction(latency: SyncLatency, clock: Clock) -> None:
    latency.received()
    latency.submitted()
    clock.now += 1
    latency.received()
    clock.now += 1
    assert latency.applied() == 2
    assert latency.waiting == 1
    latency.submitted()
    assert latency.applied() == 1


def test_a_failed_transaction_keeps_its_age(latency: SyncLatency, clock: Clock) -> None:
    latency.received()
    latency.submitted()
    clock.now += 5
    latency.received()
    latency.submitted()
    clock.now += 1
    assert latency.waiting == 6
    assert latency.applied() == 6


class Node:
    """What health is made of."""

    def __init__(self, latency: SyncLatency, clock: Clock) -> None:
        self.problems = Problems(LineLog("text"), clock=clock)
        self.applied = True
        self.eligible = True
        self.answers: list[tuple[str, int]] = []
        self.health = ProxierHealth(
            latency,
            self.problems,
            clock=clock,
            source=TABLE,
            applied=lambda: self.applied,
            eligible=lambda: self.eligible,
            answered=lambda path, code: self.answers.append((path, code)),
        )

    @property
    def codes(self) -> tuple[int, int]:
        """Of healthz and livez."""
        return self.health.healthz().code, self.health.livez().code


def body(page: Page) -> dict[str, object]:
    assert page.kind == "application/json"
    return dict(json.loads(page.body))


def test_health(latency: SyncLatency, clock: Clock) -> None:
    node = Node(latency, clock)
    assert node.codes == (200, 200)
    node.applied = False
    assert node.codes == (503, 503)
    assert body(node.health.healthz())["lastUpdated"] is None
    node.applied = True
    node.eligible = False
    assert node.codes == (503, 200), "its agent is as it should be"
    assert body(node.health.livez())["nodeEligible"] is False
    assert node.answers[:2] == [("healthz", 200), ("livez", 200)]


def test_an_update_that_stalls(latency: SyncLatency, clock: Clock) -> None:
    node = Node(latency, clock)
    latency.received()
    latency.submitted()
    latency.applied()
    latency.received()
    clock.now += MAX_DELAY
    assert node.codes == (200, 200)
    latency.submitted()
    clock.now += 1
    assert node.codes == (503, 503)
    content = body(node.health.healthz())
    assert content["healthy"] is False
    assert str(content["lastUpdated"]) < str(content["currentTime"])
    latency.applied()
    assert node.codes == (200, 200)
    content = body(node.health.healthz())
    assert content["lastUpdated"] == content["currentTime"]


def test_a_table_changed_by_others_that_cannot_be_restored(latency: SyncLatency, clock: Clock) -> None:
    """Without new changes: applied rules are gone."""
    node = Node(latency, clock)
    node.problems.raise_(TABLE, KernelError("no", errno=1))
    clock.now += MAX_DELAY
    assert node.codes == (200, 200)
    clock.now += 1
    assert node.codes == (503, 503)
    node.problems.clear(TABLE)
    assert node.codes == (200, 200)
