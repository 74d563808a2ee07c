"""From what the store says to what the kernel holds, and what load balancers are told of it."""

from __future__ import annotations

import json

import pytest

from percale.agent.http.listener import Page
from percale.agent.logging import LineLog
from percale.agent.problems import Troubles
from percale.agent.service.proxier_health import PATIENCE, ProxyHealth
from percale.agent.service.sync_latency import Progress
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
def progress(clock: Clock) -> Progress:
    return Progress(clock)


def test_what_was_told_is_done_when_it_was_sent(progress: Progress, clock: Clock) -> None:
    assert progress.waiting == 0
    assert progress.done() is None, "nothing was on its way"
    assert progress.last_done is None
    progress.told()
    clock.now += 1
    progress.told()
    clock.now += 1
    assert progress.done() is None, "nobody has taken it"
    progress.sent()
    clock.now += 1
    assert progress.waiting == 3
    assert progress.done() == 3
    assert progress.waiting == 0
    assert progress.last_done is not None
    assert progress.last_told is not None


def test_what_is_told_meanwhile_is_the_next_edits(progress: Progress, clock: Clock) -> None:
    progress.told()
    progress.sent()
    clock.now += 1
    progress.told()
    clock.now += 1
    assert progress.done() == 2
    assert progress.waiting == 1
    progress.sent()
    assert progress.done() == 1


def test_an_edit_that_failed_is_as_old_as_it_was(progress: Progress, clock: Clock) -> None:
    progress.told()
    progress.sent()
    clock.now += 5
    progress.told()
    progress.sent()
    clock.now += 1
    assert progress.waiting == 6
    assert progress.done() == 6


class Node:
    """What health is made of."""

    def __init__(self, progress: Progress, clock: Clock) -> None:
        self.troubles = Troubles(LineLog("text"), clock=clock)
        self.in_force = True
        self.eligible = True
        self.answers: list[tuple[str, int]] = []
        self.health = ProxyHealth(
            progress,
            self.troubles,
            clock=clock,
            source=TABLE,
            in_force=lambda: self.in_force,
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


def test_health(progress: Progress, clock: Clock) -> None:
    node = Node(progress, clock)
    assert node.codes == (200, 200)
    node.in_force = False
    assert node.codes == (503, 503)
    assert body(node.health.healthz())["lastUpdated"] is None
    node.in_force = True
    node.eligible = False
    assert node.codes == (503, 200), "its agent is as it should be"
    assert body(node.health.livez())["nodeEligible"] is False
    assert node.answers[:2] == [("healthz", 200), ("livez", 200)]


def test_an_update_that_stalls(progress: Progress, clock: Clock) -> None:
    node = Node(progress, clock)
    progress.told()
    progress.sent()
    progress.done()
    progress.told()
    clock.now += PATIENCE
    assert node.codes == (200, 200)
    progress.sent()
    clock.now += 1
    assert node.codes == (503, 503)
    said = body(node.health.healthz())
    assert said["healthy"] is False
    assert str(said["lastUpdated"]) < str(said["currentTime"])
    progress.done()
    assert node.codes == (200, 200)
    said = body(node.health.healthz())
    assert said["lastUpdated"] == said["currentTime"]


def test_a_table_that_somebody_broke_and_that_cannot_be_put_right(progress: Progress, clock: Clock) -> None:
    """Nothing new was told: what was in force is in force no more."""
    node = Node(progress, clock)
    node.troubles.begin(TABLE, KernelError("no", errno=1))
    clock.now += PATIENCE
    assert node.codes == (200, 200)
    clock.now += 1
    assert node.codes == (503, 503)
    node.troubles.end(TABLE)
    assert node.codes == (200, 200)
