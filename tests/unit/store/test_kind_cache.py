"""A list that lacks most objects is believed when a later one says the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.model.configmap import ConfigMap
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.store.encoded_object import EncodedObject
from percale.store.kind_cache import CONFIRM_AFTER, KindCache
from percale.store.protocol import Deleted


class World:
    """A cache, and a server that lists."""

    def __init__(self, *names: str, project: Any = None) -> None:
        self.now = 1000.0
        self.cache = KindCache(ConfigMap, project, clock=lambda: self.now)
        self.lists(*names)

    def lists(self, *names: str) -> list[str]:
        """What its list says to readers."""
        return self.told({source(name): self.cache.entry_of(config_map(name)) for name in names})

    def told(self, current: dict[ObjectKey, EncodedObject | None]) -> list[str]:
        return sorted(
            f"{'-' if event is Deleted else '+'}{entry.key.name}" for event, entry in self.cache.replace(current)
        )

    def watch(self, name: str, *, deleted: bool = False) -> list[str]:
        cache = self.cache
        found = cache.remove(source(name)) if deleted else cache.put(source(name), cache.entry_of(config_map(name)))
        return [f"{'-' if event is Deleted else '+'}{entry.key.name}" for event, entry in found]

    @property
    def names(self) -> str:
        return "".join(each.metadata.name for each in self.cache.objects)

    @property
    def problems(self) -> list[str | None]:
        return [str(each.error) if each.error is not None else None for each in self.cache.report_missing()]


def source(name: str) -> ObjectKey:
    return ObjectKey("default", name)


def config_map(name: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"))


def test_an_empty_list_deletes_nothing_until_a_later_one_is_empty_too() -> None:
    world = World(*"abcd")
    assert world.lists() == []
    assert world.names == "abcd"
    assert world.problems == [
        "the store lists 0 of 4 configmaps: the others stay until it does so again, in 60 s; "
        "if it was restored without its objects, stop it"
    ]
    world.now += CONFIRM_AFTER - 1
    assert world.lists() == [], "a server that is asked again at once says the same"
    assert world.cache.confirm_in == 1.0
    world.now += 1
    assert world.lists() == ["-a", "-b", "-c", "-d"]
    assert world.problems == [None]
    assert world.cache.confirm_in is None


def test_what_is_there_again_was_never_away() -> None:
    world = World(*"abcd")
    world.lists("a")
    assert world.watch("b") == []
    world.now += CONFIRM_AFTER
    assert world.lists(*"abcd") == []
    assert world.cache.confirm_in is None


def test_an_object_needs_two_lists_that_lack_it() -> None:
    world = World(*"abcdefgh")
    world.lists(*"gh")
    world.now += CONFIRM_AFTER
    assert world.lists() == ["-a", "-b", "-c", "-d", "-e", "-f"]
    assert world.names == "gh"
    world.now += CONFIRM_AFTER
    assert world.lists() == ["-g", "-h"]


@pytest.mark.parametrize(("before", "after"), [("abcd", "ab"), ("a", ""), ("abc", "ab")])
def test_half_of_them_or_a_single_one_goes_at_once(before: str, after: str) -> None:
    world = World(*before)
    assert world.lists(*after) == [f"-{name}" for name in before if name not in after]


def test_a_deletion_that_a_watch_tells_is_taken_at_once() -> None:
    world = World(*"abcd")
    world.lists()
    assert world.watch("a", deleted=True) == ["-a"]
    for name in "bcd":
        assert world.watch(name, deleted=True) == [f"-{name}"]
    assert world.cache.confirm_in is None


def test_what_another_object_is_projected_to_now_is_not_deleted_with_the_first() -> None:
    """A node that comes back under another name, with the subnet of one that a list lacks."""

    def project(node: Object) -> Object:
        return ConfigMap(metadata=ObjectMeta(name=node.metadata.name.upper()[0], namespace="default"))

    world = World("ann", "bob", "cid", project=project)
    assert world.lists() == []
    assert world.watch("alf") == []
    world.now += CONFIRM_AFTER
    assert world.lists("alf") == ["-B", "-C"]
    assert world.names == "A"


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcdef")), st.integers(0, 90)), max_size=12))
def test_readers_have_what_the_cache_has_and_in_the_end_what_the_server_has(lists: list[tuple[set[str], int]]) -> None:
    world = World(*"abcdef")
    seen = set("abcdef")
    last = set("abcdef")
    for names, seconds in [*lists, *([(lists[-1][0], int(CONFIRM_AFTER))] * 2 if lists else [])]:
        world.now += seconds
        for told in world.lists(*sorted(names)):
            (seen.add if told[0] == "+" else seen.remove)(told[1])
        assert seen == set(world.names)
        assert seen >= names
        last = names
    assert seen == last
