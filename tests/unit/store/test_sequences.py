"""Whatever is done in whatever order: files and memory are the same store, and a watch tells all of it."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple, TypeAlias

from hypothesis import given
from hypothesis import strategies as st
from tests.waiting import eventually

from percale.errors import StoreError
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey, ObjectMeta
from percale.store.files.store import FilesStore
from percale.store.memory import MemoryStore
from percale.store.protocol import Deleted, Event, Snapshot, Store, Upserted

NAMES = ("a", "b", "c/d", "..")


class Put(NamedTuple):
    name: str
    text: str
    expect: str | None


class Delete(NamedTuple):
    name: str
    expect: str | None


Step: TypeAlias = Put | Delete

expectations = st.sampled_from([None, "", "current", "wrong"])
steps = st.builds(Put, st.sampled_from(NAMES), st.sampled_from(["1", "2"]), expectations) | st.builds(
    Delete, st.sampled_from(NAMES), expectations
)


async def take(store: Store, step: Step) -> str:
    """The outcome of a step, in a word or the new version."""
    key = ObjectKey("default", step.name)
    expect = step.expect
    if expect == "current":
        known = await store.get(ConfigMap, key)
        expect = known.metadata.resourceVersion if known is not None else ""
    try:
        if isinstance(step, Put):
            written = await store.put(
                ConfigMap(metadata=ObjectMeta(name=step.name), data={"x": step.text}), expect=expect
            )
            return written.metadata.resourceVersion or ""
        await store.delete(ConfigMap, key, expect=expect)
    except StoreError as error:
        return type(error).__name__
    return "done"


def replay(state: dict[ObjectKey, object], event: Event) -> None:
    """What a watcher knows after the event."""
    if isinstance(event, Snapshot):
        state.clear()
        state.update((obj.key, obj) for obj in event.objects)
    elif isinstance(event, Upserted):
        assert state.get(event.object.key) != event.object
        state[event.object.key] = event.object
    elif isinstance(event, Deleted):
        assert state.pop(event.object.key) == event.object


async def follow(store: Store, state: dict[ObjectKey, object], begun: asyncio.Event) -> None:
    async with aclosing(store.watch(ConfigMap)) as events:  # type: ignore[type-var]
        async for event in events:
            replay(state, event)
            begun.set()


@given(st.lists(steps, max_size=12), st.booleans())
def test_files_are_like_memory_and_a_watch_tells_all(taken: list[Step], by_hand: bool) -> None:
    asyncio.run(compare(taken, by_hand))


async def compare(taken: list[Step], by_hand: bool) -> None:
    """`by_hand`: the objects live in a file that a person wrote."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        memory, files, other = MemoryStore(), FilesStore(root), FilesStore(root)
        if by_hand:
            documents = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}} for name in NAMES]
            (root / "mine.yaml").write_text("---\n".join(f"{json.dumps(each)}\n" for each in documents))
            for name in NAMES:
                await memory.put(ConfigMap(metadata=ObjectMeta(name=name)))
        seen: dict[ObjectKey, object] = {}
        begun = asyncio.Event()
        follower = asyncio.create_task(follow(other, seen, begun))
        await begun.wait()
        for step in taken:
            assert await take(files, step) == await take(memory, step)
            listed = await memory.list(ConfigMap)
            assert await files.list(ConfigMap) == await other.list(ConfigMap) == listed

        async def agree() -> bool:
            return [seen[key] for key in sorted(seen)] == await memory.list(ConfigMap)

        await eventually(agree)
        for store in (memory, files, other):
            await store.close()
        await follower
        fresh = FilesStore(root)
        assert await fresh.list(ConfigMap) == [seen[key] for key in sorted(seen)]
        await fresh.close()
