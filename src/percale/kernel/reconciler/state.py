"""What is wished, what is there, and what has to be looked at: the reconciler's books. No clock, thread or kernel in here.

    want ──▶ wishes by source ──▶ desired ─┐
                                           ├─ dirty keys ─▶ plan() ─▶ changes ─▶ applied(results)
    observe, read_again ──▶ actual ────────┘                                         │
                             ▲───────────────────────────────────────────────────────┘

`reconciling` owns one and calls it from its worker thread only.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from percale.errors import KernelError
from percale.kernel import plan
from percale.kernel.protocol import Change, KernelEvent, LinkReset, ObjectChanged, ObjectRemoved, Underlay, Upsert
from percale.kernel.reconciler.object_index import ObjectIndex
from percale.kernel.refusal import conflict, refused
from percale.kernel.rtnl.dump import foreign_link
from percale.render.objects import Address, KernelObject, Key, Link, Ruleset, Sysctl

_DEPENDENCY_TYPES = (Link, Ruleset)
"""What others stand on."""


class ReconcilerState:
    """A key is dirty when its wish or what is there may have changed since the last plan."""

    def __init__(self) -> None:
        self.actual = ObjectIndex()
        self.refused: dict[Key, KernelError] = {}
        """Objects that the kernel refused when they were tried last."""
        self.conflicts: dict[Key, KernelError] = {}
        """Objects that two sources wish differently; the first source by name has its way."""
        self.synced = False
        self.needs_resync = False
        """True when what is there has to be read again: a device was adopted, a leftover may have gone unsaid."""
        self._wishes: dict[str, dict[Key, KernelObject]] = {}
        self._sources_by_key: dict[Key, dict[str, KernelObject]] = {}
        self._desired = ObjectIndex()
        self._settings: dict[Key, Sysctl] = {}
        """Those that are wished."""
        self._last_source: dict[Key, str] = {}
        """Keys that nobody wishes any more, by the last source that did."""
        self._created_pairs: set[Key] = set()
        """Pairs whose other end was born in a namespace; its descriptor is not ours to use again."""
        self._retried_after_enodev: set[Key] = set()
        """Objects refused for want of a device that should have been there."""
        self._dirty: set[Key] = set()
        self._foreign: dict[str, Link] = {}

    @property
    def dirty(self) -> bool:
        return bool(self._dirty)

    @property
    def settings(self) -> list[Sysctl]:
        """Kernel settings that are as wished, as far as is known."""
        return [wish for key, wish in self._settings.items() if self.actual.get(key) == wish]

    # What is wished

    def want(self, source: str, objects: Iterable[KernelObject]) -> None:
        """These are now all the wishes of this source."""
        before = self._wishes.pop(source, {})
        now = {obj.key: obj for obj in objects}
        if now:
            self._wishes[source] = now
        for key in before.keys() - now.keys():
            del self._sources_by_key[key][source]
            self._decide(key, source)
        for key, obj in now.items():
            if before.get(key) != obj:
                holders = self._sources_by_key.get(key)
                if holders is None:
                    self._sources_by_key[key] = {source: obj}
                else:
                    holders[source] = obj
                self._decide(key, source)

    def _decide(self, key: Key, source: str) -> None:
        """Whose wish counts for this key, after `source` changed its mind."""
        holders = self._sources_by_key[key]
        self._forget_history(key)
        if holders:
            first = min(holders)
            wish = holders[first]
            self._desired.put(key, wish)
            if isinstance(wish, Sysctl):
                self._settings[key] = wish
            if len(holders) > 1:
                others = [name for name in sorted(holders) if holders[name] != wish]
                if others:
                    self.conflicts[key] = conflict(wish, first, others[0])
            if isinstance(wish, Link) and wish.kind is None:
                self._see_foreign(wish)
        else:
            del self._sources_by_key[key]
            self._desired.pop(key)
            self._settings.pop(key, None)
            self._last_source[key] = source
        self._dirty.add(key)

    def _forget_history(self, key: Key) -> None:
        """A new wish starts anew. (These books are mostly empty, and keys with addresses are slow to look up.)"""
        for book in (self.conflicts, self.refused, self._last_source):
            if book:
                book.pop(key, None)
        for marks in (self._created_pairs, self._retried_after_enodev):
            if marks:
                marks.discard(key)

    def in_sync(self) -> None:
        """From now on leftovers go."""
        self.synced = True
        self._dirty |= self.actual.keys() - self._desired.keys()

    # What is there

    def read_again(self, actual: dict[Key, KernelObject]) -> None:
        """All of it, as just read."""
        settings = [obj for obj in self.actual if isinstance(obj, Sysctl)]
        self.actual = ObjectIndex((*settings, *actual.values()))
        for wish in self._desired:
            if isinstance(wish, Link) and wish.kind is None:
                self._see_foreign(wish)
        self._dirty |= self._desired.keys() | self.actual.keys()

    def read_underlay(self, underlay: Underlay) -> None:
        """The devices of others, as just read: wishes for their settings are compared with these."""
        self._foreign = {interface.name: foreign_link(interface) for interface in underlay.interfaces}
        for wish in self._desired:
            if isinstance(wish, Link) and wish.kind is None:
                self._see_foreign(wish)
                self._dirty.add(wish.key)

    def _see_foreign(self, wish: Link) -> None:
        seen = self._foreign.get(wish.name)
        if seen is not None:
            self.actual.put(wish.key, seen)
        else:
            self.actual.pop(wish.key)

    def observe(self, events: Iterable[KernelEvent]) -> None:
        """What others did; the coarse events are the caller's."""
        for event in events:
            match event:
                case ObjectChanged():
                    self.actual.put(event.object.key, event.object)
                    self._dirty.add(event.object.key)
                case ObjectRemoved():
                    self.actual.pop(event.key)
                    self._dirty.add(event.key)
                    self._dirty |= self._invalidate(event.key)
                    self._drop_unwished(event.key)
                case LinkReset():
                    self._dirty |= self._recheck(("link", event.dev))

    def _invalidate(self, lower: Key, *, links: bool = True) -> frozenset[Key]:
        """What is wished on this may be gone: it is written again, for that does no harm. Its keys."""
        wished = frozenset(key for key in self._desired.on(lower) if links or key[0] != "link")
        for key in wished:
            self.actual.pop(key)
        return wished

    def _drop_unwished(self, lower: Key) -> None:
        """What nobody wishes on this is gone; devices outlive a bridge, or have an event of their own."""
        for key in self._unwished_on(lower):
            if key[0] != "link":
                self.actual.pop(key)

    def _unwished_on(self, lower: Key) -> list[Key]:
        return [key for key in self.actual.on(lower) if key not in self._desired]

    def _recheck(self, lower: Key) -> frozenset[Key]:
        """This device stays, and so do its ports and tunnels; of the rest something may be gone."""
        if not self.synced and self._unwished_on(lower):
            self.needs_resync = True  # nobody has wished it yet, but somebody may
        return self._invalidate(lower, links=False)

    # What has to change

    def look_again(self, keys: Iterable[Key]) -> None:
        """Try these once more."""
        self._dirty.update(keys)

    def plan(self) -> list[Change]:
        """The changes that make all dirty keys right, in order; nothing is dirty afterwards."""
        removals: dict[Key, KernelObject] = {}
        puts: dict[Key, KernelObject] = {}
        waiting = self._dirty
        self._dirty = set()
        while waiting:
            key = waiting.pop()
            if key in puts or key in removals:
                continue
            wish, have = self._desired.get(key), self.actual.get(key)
            if wish is None:
                if have is not None and plan.removable(have) and (self.synced or key in self._last_source):
                    removals[key] = have
                    waiting |= self._implicitly_removed(have)
                elif have is None:
                    self.refused.pop(key, None)
                    self._last_source.pop(key, None)
            elif have is None and not isinstance(wish, _DEPENDENCY_TYPES):
                puts[key] = wish  # the usual case, and thousands of them at a cold start
            elif not plan.matches(wish, have):
                puts[key] = self._puttable(key, wish)
                if plan.replaces(wish, have):
                    waiting |= self._invalidate(key) - puts.keys()
                elif plan.disturbs_dependents(wish, have):
                    waiting |= self._recheck(key) - puts.keys()
            else:
                self.refused.pop(key, None)
        return plan.order(removals.values(), puts)

    def _implicitly_removed(self, obj: KernelObject) -> frozenset[Key]:
        """What goes unsaid with this: routes with a device's last address, everything with a device or table."""
        if isinstance(obj, Address):
            return self._recheck(("link", obj.dev))
        return self._invalidate(obj.key)

    def _puttable(self, key: Key, wish: KernelObject) -> KernelObject:
        """A pair is born once: when it is gone later, the descriptor of its other end's namespace may be anything."""
        return replace(wish, peer=None) if isinstance(wish, Link) and key in self._created_pairs else wish

    def applied(self, changes: Sequence[Change], results: Sequence[OSError | None]) -> None:
        """What became of the changes of a plan."""
        for change, error in zip(changes, results, strict=True):
            obj = change.object
            key = obj.key
            if error is not None:
                self._note_refusal(change, error)
                continue
            if self.refused or self._retried_after_enodev:
                self.refused.pop(key, None)
                self._retried_after_enodev.discard(key)
            if isinstance(change, Upsert):
                self._note_new_ground(obj)
                self.actual.put(key, obj)
            else:
                self._drop_unwished(key)
                self.actual.pop(key)
                self._last_source.pop(key, None)

    def _note_refusal(self, change: Change, error: OSError) -> None:
        """What stood there stands there still, except that a device may have been removed to be made anew."""
        key = change.object.key
        if isinstance(change, Upsert):
            if error.errno == errno.ENODEV and self._device_is_gone(key, change.object):
                return
            if isinstance(change.object, Link) and self.actual.pop(key) is not None:
                self.needs_resync = True
        self.refused[key] = refused(change, error)

    def _note_new_ground(self, obj: KernelObject) -> None:
        """A device was made or adopted, a table loaded: what was on it before."""
        if not isinstance(obj, _DEPENDENCY_TYPES):
            return
        have = self.actual.get(obj.key)
        if have is not None and plan.replaces(obj, have):
            self._drop_unwished(obj.key)
        if isinstance(obj, Ruleset) or obj.kind is None:
            return
        if have is None and self._unwished_on(obj.key):
            self.needs_resync = True
        if obj.peer is not None and obj.peer.namespace is not None:
            self._created_pairs.add(obj.key)
        if self._foreign.pop(obj.name, None) is not None:
            self.needs_resync = True

    def _device_is_gone(self, key: Key, obj: KernelObject) -> bool:
        """True when a device that was taken to be there is not: the refusal is quicker than the event that tells of it.

        Once for each object: when the device turns out to be there, the refusal means something else.
        """
        gone = {
            lower
            for lower in plan.dependencies_of(obj)
            if lower in self._desired and (lower in self.actual or lower in self._dirty)
        }
        if not gone or key in self._retried_after_enodev:
            return False
        for lost in (key, *gone):
            self.actual.pop(lost)
        self._retried_after_enodev.add(key)
        self._dirty |= {key, *gone}
        return True

    # What the callers ask

    def verdict(self, source: str) -> KernelError | None:
        """Why the wishes of this source (or what it let go) are not fulfilled; None when they are."""
        for key, wish in self._wishes.get(source, {}).items():
            if key in self.refused:
                return self.refused[key]
            if key in self.conflicts and wish != self._desired.get(key):
                return self.conflicts[key]
        for key, error in self.refused.items():
            if self._last_source.get(key) == source:
                return error
        return None

    def source_of(self, key: Key) -> str:
        """Whose object it is, for a report."""
        holders = self._sources_by_key.get(key)
        return min(holders) if holders else self._last_source.get(key, "leftover")

    def waits_for_another(self, key: Key) -> bool:
        """True when it was refused only because what it stands on was refused."""
        wish = self._desired.get(key)
        error = self.refused.get(key)
        if wish is None or error is None or error.errno not in (errno.ENODEV, errno.ENOENT):
            return False
        return any(lower in self.refused for lower in plan.dependencies_of(wish))
