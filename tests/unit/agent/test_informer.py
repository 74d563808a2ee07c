"""Each kind is listed and watched once; problems of the store are reported once."""

from __future__ import annotations

import asyncio
import io
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import pytest
from tests.silent import silent_problems

from percale.agent import informer
from percale.agent.informer import Change, Informer, retry_until_available
from percale.agent.logging import LineLog
from percale.agent.problems import Problems
from percale.errors import BadManifest, StoreError, StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease
from percale.policy.evaluator import Evaluator
from percale.service import resolver
from percale.store.kind_cache import list_source
from percale.store.last_state import LastState
from percale.store.memory import MemoryStore
from percale.store.protocol import Event, ReadProblem, Snapshot, Upserted

T = TypeVar("T", bound=Object)

AWAY = StoreUnavailable("no such directory", where="/objects")
NOTHING = Snapshot({SubnetLease: []})
BAD = BadManifest("not YAML", where="bad.yaml:3")


class Scripted:
    """A store whose watches follow scripts; the last one stays open."""

    def __init__(self, *scripts: list[Event | Exception]) -> None:
        self._scripts = list(scripts)
        self.used_up = asyncio.Event()

    async def watch(self, *_kinds: object, isolate: bool = False) -> AsyncGenerator[Event, None]:
        for step in self._scripts.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step
        if not self._scripts:
            self.used_up.set()
            await asyncio.Event().wait()


async def followed(*scripts: list[Event | Exception]) -> tuple[list[Change], Problems, str]:
    stream, seen = io.StringIO(), list[Change]()
    problems = Problems(LineLog("text", stream), clock=lambda: 100.0)
    store = Scripted(*scripts)

    async def see(event: Change) -> None:
        seen.append(event)

    there = Informer(store, problems)  # type: ignore[arg-type]
    subscription = there.subscribe(SubnetLease)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(there.run()), tasks.create_task(subscription.run(see))]
        await store.used_up.wait()
        await asyncio.sleep(0)
        for task in running:
            task.cancel()
    return seen, problems, stream.getvalue()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer, "_FIRST_RETRY", 0.0)


async def test_an_unreachable_store_is_retried_and_reported_once() -> None:
    seen, problems, log = await followed([NOTHING], [AWAY], [AWAY], [NOTHING])
    assert seen == [NOTHING, NOTHING]
    assert not problems.current
    assert (log.count("warn  problem "), log.count("problem cleared")) == (1, 1)
    assert problems.last is not None and problems.last.error == "/objects: no such directory"


async def test_an_invalid_file_is_a_problem_of_its_own_until_it_is_valid_again() -> None:
    bad, good = ReadProblem("bad.yaml", BAD), ReadProblem("bad.yaml", None)
    _, problems, _ = await followed([NOTHING, bad, bad])
    assert {source: problem.error for source, problem in problems.current.items()} == {
        "store bad.yaml": "bad.yaml:3: not YAML"
    }
    assert (await followed([NOTHING, bad, good]))[1].current == {}


async def test_a_file_of_which_all_objects_are_there_holds_nobody_up() -> None:
    """Agents wait for what may hide a policy or a lease, not for a field that a newer API has."""
    bad, unknown = ReadProblem("bad.yaml", BAD), ReadProblem("bad.yaml", BAD, complete=True)
    good = ReadProblem("bad.yaml", None)
    cases: list[tuple[list[Event | Exception], set[str]]] = [
        ([unknown, NOTHING], {"manifest bad.yaml"}),
        ([bad, NOTHING, unknown], {"manifest bad.yaml"}),
        ([unknown, NOTHING, bad], {"store bad.yaml"}),
        ([bad, NOTHING, good], set()),
        ([unknown, NOTHING, good], set()),
    ]
    for events, current in cases:
        _, problems, _ = await followed(events)
        assert set(problems.current) == current


async def test_a_last_state_holds_nobody_up_and_is_told_until_the_store_is_back() -> None:
    restored = LastState(Path("/last-state"), "etcd:x").restored([])
    away = ReadProblem("etcd", AWAY)
    unread, known = away, ReadProblem("etcd", AWAY, complete=True)
    for events, waits in (
        ([unread], True),
        ([unread, restored, NOTHING], True),
        ([unread, restored, NOTHING, known], False),
        ([unread, restored, NOTHING, known, ReadProblem("etcd", None), ReadProblem(restored.source, None)], False),
    ):
        there = await scripted([*events])
        with pytest.raises(TimeoutError) if waits else nullcontext():
            async with asyncio.timeout(0.01):
                await there.wait_complete()
        assert there.restored == (restored in events and len(events) < 6)


async def test_a_store_that_lacks_many_objects_of_a_kind_is_told_to_who_asked() -> None:
    lack = ReadProblem(list_source(SubnetLease), StoreError("0 of 4"), complete=True)
    told: list[str] = []
    await scripted(
        [
            NOTHING,
            lack,
            ReadProblem(list_source(Pod), StoreError("0 of 4"), complete=True),
            ReadProblem(lack.source, None),
        ],
        lambda there: there.on_lack(SubnetLease, lambda: told.append("leases")),
    )
    assert told == ["leases"]


async def scripted(
    events: list[Event | Exception], prepare: Callable[[Informer], None] = lambda there: None
) -> Informer:
    """One that has seen these."""
    store = Scripted(events)
    there = Informer(store, silent_problems())  # type: ignore[arg-type]
    there.subscribe(SubnetLease)
    prepare(there)
    running = asyncio.create_task(there.run())
    await store.used_up.wait()
    await asyncio.sleep(0)
    running.cancel()
    return there


async def test_what_an_informer_that_ended_could_not_read_is_no_problem() -> None:
    problems = silent_problems()
    store = Scripted([ReadProblem("etcd", AWAY), NOTHING])
    there = Informer(store, problems, "store of the network")  # type: ignore[arg-type]
    there.subscribe(SubnetLease)
    running = asyncio.create_task(there.run())
    await store.used_up.wait()
    assert set(problems.current) == {"store of the network etcd"}
    running.cancel()
    there.close()
    assert not problems.current


async def test_a_file_repaired_while_the_store_was_away_is_no_problem_any_more() -> None:
    bad, other = ReadProblem("bad.yaml", BAD), ReadProblem("other.yaml", BAD)
    _, problems, log = await followed([bad, other, NOTHING, AWAY], [bad, NOTHING])
    assert set(problems.current) == {"store bad.yaml"}
    assert log.count("problem cleared") == 2, "the store and the other file, once each"
    assert (await followed([bad, NOTHING, AWAY], [AWAY], [NOTHING]))[1].current == {}


async def test_an_attempt_is_retried_until_the_store_is_available() -> None:
    outcomes: list[Exception | int] = [AWAY, AWAY, 7]

    async def attempt() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    problems = silent_problems()
    assert await retry_until_available(attempt, problems) == 7
    assert problems.last is not None and not problems.current


class Counting(MemoryStore):
    """A store that counts the lists of each kind, whoever asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.lists: Counter[type[Object]] = Counter()

    async def list(self, kind: type[T]) -> list[T]:
        self.lists[kind] += 1
        return await super().list(kind)

    def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        self.lists.update(kinds)
        return super().watch(*kinds)


async def test_an_agent_lists_each_kind_once() -> None:
    """Nodes and leases concern peers, policies and Services."""
    store = Counting()
    there = Informer(store, silent_problems())
    subscriptions = [
        there.subscribe(SubnetLease),
        there.subscribe(*Evaluator().kinds),
        there.subscribe(*resolver.KINDS),
    ]
    running = asyncio.create_task(there.run())
    for subscription in subscriptions:
        async with asyncio.timeout(30):
            first = await anext(subscription.events())
        assert isinstance(first, Snapshot)
        assert tuple(first.by_kind) == subscription.kinds
    running.cancel()
    assert set(store.lists.values()) == {1}
    assert set(store.lists) == {kind for subscription in subscriptions for kind in subscription.kinds}


def test_only_the_informer_lists_and_watches_for_an_agent() -> None:
    """But for claiming a subnet, which must see what others wrote a moment ago, and without an agent."""
    package = Path(informer.__file__).parent
    calls = re.compile(r"store\.(watch|list)\(")
    found = {path.name for path in package.rglob("*.py") if calls.search(path.read_text())}
    assert found == {"informer.py", "cleanup.py", "to_flannel.py"}


async def test_nobody_subscribes_to_an_informer_that_runs() -> None:
    there = Informer(MemoryStore(), silent_problems())
    first = there.subscribe(ConfigMap)
    running = asyncio.create_task(there.run())
    async with asyncio.timeout(30):
        await anext(first.events())
    with pytest.raises(RuntimeError, match="subscribe before"):
        there.subscribe(SubnetLease)
    running.cancel()


async def test_who_reads_late_gets_the_latest_of_each_object_in_order() -> None:
    store = MemoryStore()
    there = Informer(store, silent_problems())
    late = there.subscribe(ConfigMap)
    quick = there.subscribe(ConfigMap)
    seen: list[Change] = []
    running = asyncio.create_task(there.run())
    events = quick.events()
    seen.append(await anext(events))
    for name, text in (("a", "1"), ("b", "1"), ("a", "2"), ("a", "3")):
        await store.put(config_map(name, text))
        seen.append(await anext(events))
    await store.delete(ConfigMap, ObjectKey("default", "b"))
    seen.append(await anext(events))
    events = late.events()
    missed = [await anext(events) for _ in range(3)]
    assert missed == [seen[0], seen[4], seen[5]]
    await store.put(config_map("a", "4"))
    assert isinstance(await anext(events), Upserted)
    running.cancel()


async def test_a_new_snapshot_replaces_what_is_queued() -> None:
    subscription = Informer(MemoryStore(), silent_problems()).subscribe(ConfigMap)
    for number in range(3):
        subscription.offer(Upserted(config_map("a", str(number))))
    again = Snapshot({ConfigMap: [config_map("a", "9")], SubnetLease: []})
    subscription.offer(again)
    events = subscription.events()
    assert await anext(events) == Snapshot({ConfigMap: [config_map("a", "9")]})


def config_map(name: str, text: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data={"text": text})
