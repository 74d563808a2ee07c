"""Desired objects, actual objects and the keys to compare: the reconciler's state. Pure: no clock, thread or kernel.

    declare ──▶ objects by source ──▶ desired ─┐
                                               ├─ dirty keys ─▶ plan() ─▶ changes ─▶ applied(results)
    observe, resync ──▶ actual ────────────────┘                                         │
                          ▲──────────────────────────────────────────────────────────────┘

`reconciler.py` owns one and calls it from its worker thread only.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence

from msgspec.structs import replace

from percale.errors import KernelError
from percale.kernel import plan
from percale.kernel.errors import conflict_error, kernel_error
from percale.kernel.plan import dependencies_of
from percale.kernel.protocol import Change, KernelEvent, LinkReset, ObjectChanged, ObjectRemoved, Underlay, Upsert
from percale.kernel.rtnl.dump import foreign_link
from percale.render.objects import WIREGUARD, Address, KernelObject, Key, Link, Sysctl, WireguardDevice


class ObjectIndex:
    """Kernel objects by key, with an index of what depends on a key: everything on a device."""

    def __init__(self, objects: Iterable[KernelObject] = ()) -> None:
        self._objects: dict[Key, KernelObject] = {}
        self._dependents: dict[Key, set[Key]] = {}
        for obj in objects:
            self.put(obj.key, obj)

    def put(self, key: Key, obj: KernelObject) -> None:
        """Insert or replace."""
        before = self._objects.get(key)
        self._objects[key] = obj
        if before is not None:
            self._unindex(key, before)
        for dependency in dependencies_of(obj):
            dependents = self._dependents.get(dependency)
            if dependents is None:
                self._dependents[dependency] = {key}
            else:
                dependents.add(key)

    def pop(self, key: Key) -> KernelObject | None:
        """Remove it; None when it was not there."""
        obj = self._objects.pop(key, None)
        if obj is not None:
            self._unindex(key, obj)
        return obj

    def _unindex(self, key: Key, obj: KernelObject) -> None:
        for dependency in dependencies_of(obj):
            dependents = self._dependents[dependency]
            dependents.discard(key)
            if not dependents:
                del self._dependents[dependency]

    def get(self, key: Key) -> KernelObject | None:
        return self._objects.get(key)

    def dependents_of(self, key: Key) -> frozenset[Key]:
        """The keys of all objects that depend on this one."""
        return frozenset(self._dependents.get(key, ()))

    def keys(self) -> KeysView[Key]:
        return self._objects.keys()

    def __contains__(self, key: Key) -> bool:
        return key in self._objects

    def __iter__(self) -> Iterator[KernelObject]:
        return iter(self._objects.values())


class ReconcilerState:
    """A key is dirty when its desired or actual object may have changed since the last plan."""

    def __init__(self) -> None:
        self.actual = ObjectIndex()
        self.errors: dict[Key, KernelError] = {}
        """Objects whose last change the kernel rejected."""
        self.conflicts: dict[Key, KernelError] = {}
        """Objects that two sources declare differently; the lexicographically first source wins."""
        self.collecting_garbage = False
        self.needs_resync = False
        """The actual objects have to be read again: a device was adopted, or a stale object may have gone without an event."""
        self._by_source: dict[str, dict[Key, KernelObject]] = {}
        self._sources_by_key: dict[Key, dict[str, KernelObject]] = {}
        self._desired = ObjectIndex()
        self._settings: dict[Key, Sysctl] = {}
        """The desired ones."""
        self._last_source: dict[Key, str] = {}
        """The last source of each key that is no longer declared."""
        self._created_pairs: set[Key] = set()
        """veth pairs whose peer was created in a namespace, whose descriptor may be closed by now."""
        self._retried_after_enodev: set[Key] = set()
        """Objects rejected with ENODEV although their device was believed to exist."""
        self._dirty: set[Key] = set()
        self._disturbed: set[Key] = set()
        """Desired objects that another program has changed or removed, until they are restored."""
        self._foreign: dict[str, Link] = {}

    @property
    def dirty(self) -> bool:
        return bool(self._dirty)

    @property
    def settings(self) -> list[Sysctl]:
        """Sysctls that have the desired value, as far as is known."""
        return [desired for key, desired in self._settings.items() if self.actual.get(key) == desired]

    # Desired

    def declare(self, source: str, objects: Iterable[KernelObject]) -> None:
        """Replace all objects of this source."""
        before = self._by_source.pop(source, {})
        now = {obj.key: obj for obj in objects}
        if now:
            self._by_source[source] = now
        for key in before.keys() - now.keys():
            del self._sources_by_key[key][source]
            self._choose_desired(key, source)
        for key, obj in now.items():
            if before.get(key) != obj:
                holders = self._sources_by_key.get(key)
                if holders is None:
                    self._sources_by_key[key] = {source: obj}
                else:
                    holders[source] = obj
                self._choose_desired(key, source)

    def _choose_desired(self, key: Key, source: str) -> None:
        """Choose the desired object of this key after a change of `source`."""
        holders = self._sources_by_key[key]
        self._clear_history(key)
        if holders:
            first = min(holders)
            desired = holders[first]
            self._desired.put(key, desired)
            if isinstance(desired, Sysctl):
                self._settings[key] = desired
            if len(holders) > 1:
                others = [name for name in sorted(holders) if holders[name] != desired]
                if others:
                    self.conflicts[key] = conflict_error(desired, first, others[0])
            if isinstance(desired, Link) and desired.kind is None:
                self._update_foreign(desired)
        else:
            del self._sources_by_key[key]
            self._desired.pop(key)
            self._settings.pop(key, None)
            self._last_source[key] = source
        self._dirty.add(key)

    def _clear_history(self, key: Key) -> None:
        """A new desired object starts afresh. The checks come first, for keys with addresses are slow to hash."""
        for by_key in (self.conflicts, self.errors, self._last_source):
            if by_key:
                by_key.pop(key, None)
        for marks in (self._created_pairs, self._retried_after_enodev, self._disturbed):
            if marks:
                marks.discard(key)

    def start_garbage_collection(self) -> None:
        """From now on stale objects are deleted."""
        self.collecting_garbage = True
        self._dirty |= self.actual.keys() - self._desired.keys()

    # Actual

    def resync(self, actual: dict[Key, KernelObject]) -> None:
        """Replace the actual objects by what was just read."""
        settings = [obj for obj in self.actual if isinstance(obj, Sysctl)]
        self.actual = ObjectIndex((*settings, *actual.values()))
        for desired in self._desired:
            if isinstance(desired, Link) and desired.kind is None:
                self._update_foreign(desired)
        self._dirty |= self._desired.keys() | self.actual.keys()

    def read_underlay(self, underlay: Underlay) -> None:
        """Foreign devices, as just read: the desired settings of such devices are compared with these."""
        self._foreign = {interface.name: foreign_link(interface) for interface in underlay.interfaces}
        for desired in self._desired:
            if isinstance(desired, Link) and desired.kind is None:
                self._update_foreign(desired)
                self._dirty.add(desired.key)

    def _update_foreign(self, desired: Link) -> None:
        seen = self._foreign.get(desired.name)
        if seen is not None:
            self.actual.put(desired.key, seen)
        else:
            self.actual.pop(desired.key)

    def observe(self, events: Iterable[KernelEvent]) -> None:
        """Changes by others; the coarse events are the caller's."""
        taken_along: set[Key] = set()
        for event in events:
            match event:
                case ObjectChanged():
                    self.actual.put(event.object.key, event.object)
                    self._dirty.add(event.object.key)
                    self._mark_disturbed(event.object.key)
                case ObjectRemoved():
                    self.actual.pop(event.key)
                    self._mark_disturbed(event.key)
                    self._dirty.add(event.key)
                    self._dirty |= self._invalidate(event.key)
                    self._drop_undesired(event.key)
                case LinkReset():
                    self._dirty |= self._recheck(("link", event.dev))
                    dependents = self._desired.dependents_of(("link", event.dev))
                    taken_along |= {key for key in dependents if key[0] != "address"}  # one may be the reset's cause
        self._disturbed -= taken_along

    def _mark_disturbed(self, key: Key) -> None:
        if key in self._desired:
            self._disturbed.add(key)

    def _invalidate(self, lower: Key, *, links: bool = True) -> frozenset[Key]:
        """Desired objects on this may be gone: write them again, which is idempotent. Returns their keys."""
        expected = frozenset(key for key in self._desired.dependents_of(lower) if links or key[0] != "link")
        for key in expected:
            self.actual.pop(key)
        return expected

    def _drop_undesired(self, lower: Key) -> None:
        """Undesired objects on this are gone; devices outlive a bridge, or have an event of their own."""
        for key in self._undesired_dependents(lower):
            if key[0] != "link":
                self.actual.pop(key)

    def _undesired_dependents(self, lower: Key) -> list[Key]:
        return [key for key in self.actual.dependents_of(lower) if key not in self._desired]

    def _recheck(self, lower: Key) -> frozenset[Key]:
        """The device, its ports and its tunnels remain; other objects on it may be gone."""
        if not self.collecting_garbage and self._undesired_dependents(lower):
            self.needs_resync = True  # not declared yet, but may be before garbage collection
        return self._invalidate(lower, links=False)

    @property
    def wireguard_devices(self) -> list[str]:
        """Names of the desired ones."""
        return [desired.dev for desired in self._desired if isinstance(desired, WireguardDevice)]

    def observe_wireguard(self, devices: Iterable[str], found: Mapping[Key, KernelObject]) -> None:
        """What these devices have now, for the kernel does not report changes by others."""
        events: list[KernelEvent] = []
        on_them = (each for device in devices for each in self.actual.dependents_of(("link", device)))
        known = {key: obj for key in on_them if isinstance(obj := self.actual.get(key), WIREGUARD)}
        for key, obj in found.items():
            assert isinstance(obj, WIREGUARD)
            if key not in known or not plan.is_undisturbed(known[key], obj):
                events.append(ObjectChanged(obj))
        events += (ObjectRemoved(key) for key in known.keys() - found.keys())
        self.observe(events)

    # Changes

    def mark_dirty(self, keys: Iterable[Key]) -> None:
        """Compare these again."""
        self._dirty.update(keys)

    def plan(self) -> list[Change]:
        """The ordered changes for all dirty keys; nothing is dirty afterwards."""
        removals: dict[Key, KernelObject] = {}
        puts: dict[Key, KernelObject] = {}
        waiting = self._dirty
        self._dirty = set()
        while waiting:
            key = waiting.pop()
            if key in puts or key in removals:
                continue
            desired, actual = self._desired.get(key), self.actual.get(key)
            if desired is None:
                if (
                    actual is not None
                    and plan.removable(actual)
                    and (self.collecting_garbage or key in self._last_source)
                ):
                    removals[key] = actual
                    waiting |= self._implicitly_removed(actual)
                elif actual is None:
                    self.errors.pop(key, None)
                    self._last_source.pop(key, None)
            elif actual is None and not isinstance(desired, Link):
                puts[key] = desired  # the usual case: thousands of them at a cold start
            elif not plan.matches(desired, actual):
                puts[key] = self._without_created_peer(key, desired)
                if plan.replaces(desired, actual):
                    waiting |= self._invalidate(key) - puts.keys()
                elif plan.disturbs_dependents(desired, actual):
                    waiting |= self._recheck(key) - puts.keys()
            else:
                self.errors.pop(key, None)
                self._disturbed.discard(key)
        return plan.order(removals.values(), puts)

    def _implicitly_removed(self, obj: KernelObject) -> frozenset[Key]:
        """What this takes along without an event: routes of the last address, everything on a device."""
        if isinstance(obj, Address):
            return self._recheck(("link", obj.dev))
        return self._invalidate(obj.key)

    def _without_created_peer(self, key: Key, desired: KernelObject) -> KernelObject:
        """A pair is created once: later its peer's namespace descriptor may refer to something else."""
        if isinstance(desired, Link) and desired.kind is not None and key in self._created_pairs:
            return replace(desired, kind=desired.kind.without_descriptors())
        return desired

    def applied(self, changes: Sequence[Change], results: Sequence[OSError | None]) -> list[KernelObject]:
        """Record the results of a plan's changes.

        Returns what was restored after another program's change, without what only went along with its device.
        """
        restored = []
        disturbed, self._disturbed = self._disturbed, set()
        for change, error in zip(changes, results, strict=True):
            obj = change.object
            key = obj.key
            if error is not None:
                self._record_error(change, error)
                continue
            if self.errors or self._retried_after_enodev:
                self.errors.pop(key, None)
                self._retried_after_enodev.discard(key)
            if isinstance(change, Upsert):
                self._record_new_dependency(obj)
                self.actual.put(key, obj)
                if key in disturbed and disturbed.isdisjoint(dependencies_of(obj)):
                    restored.append(obj)
            else:
                self._drop_undesired(key)
                self.actual.pop(key)
                self._last_source.pop(key, None)
        return restored

    def _record_error(self, change: Change, error: OSError) -> None:
        """The actual object is unchanged, except that a device may have been deleted to be recreated."""
        key = change.object.key
        if isinstance(change, Upsert):
            if error.errno == errno.ENODEV and self._device_is_missing(key, change.object):
                return
            if isinstance(change.object, Link) and self.actual.pop(key) is not None:
                self.needs_resync = True
        self.errors[key] = kernel_error(change, error)

    def _record_new_dependency(self, obj: KernelObject) -> None:
        """A device was created or adopted: what was on it before is gone or unknown."""
        if not isinstance(obj, Link):
            return
        actual = self.actual.get(obj.key)
        if actual is not None and plan.replaces(obj, actual):
            self._drop_undesired(obj.key)
        if obj.kind is None:
            return
        if actual is None and self._undesired_dependents(obj.key):
            self.needs_resync = True
        if obj.kind.without_descriptors() is not obj.kind:
            self._created_pairs.add(obj.key)
        if self._foreign.pop(obj.name, None) is not None:
            self.needs_resync = True

    def _device_is_missing(self, key: Key, obj: KernelObject) -> bool:
        """True when a device believed to exist does not: the error arrived before its removal event.

        Once per object: if the device turns out to exist, ENODEV means something else.
        """
        gone = {
            lower
            for lower in dependencies_of(obj)
            if lower in self._desired and (lower in self.actual or lower in self._dirty)
        }
        if not gone or key in self._retried_after_enodev:
            return False
        for lost in (key, *gone):
            self.actual.pop(lost)
        self._retried_after_enodev.add(key)
        self._dirty |= {key, *gone}
        self._disturbed |= gone
        return True

    # Queries

    def error_of(self, source: str) -> KernelError | None:
        """Why the objects of this source (or those it withdrew) are not as declared; None when they are."""
        for key, desired in self._by_source.get(source, {}).items():
            if key in self.errors:
                return self.errors[key]
            if key in self.conflicts and desired != self._desired.get(key):
                return self.conflicts[key]
        for key, error in self.errors.items():
            if self._last_source.get(key) == source:
                return error
        return None

    def source_of(self, key: Key) -> str:
        """The object's source, for reports."""
        holders = self._sources_by_key.get(key)
        return min(holders) if holders else self._last_source.get(key, "stale object")

    def blocked_by_dependency(self, key: Key) -> bool:
        """True when it failed only because a dependency failed."""
        desired = self._desired.get(key)
        error = self.errors.get(key)
        if desired is None or error is None or error.errno not in (errno.ENODEV, errno.ENOENT):
            return False
        return any(lower in self.errors for lower in dependencies_of(desired))
