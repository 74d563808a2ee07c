"""Lists and watches one resource of the API, for as long as its task runs. `watch.py` starts one for each.

    list, in pages ─▶ replace ─┐                    ┌─ the server ends it in time: on from the last version
         ▲                     ├─▶ KindCaches       │
         │   watch ── events ──┘                    │
         └───── 410, a cut, half a line, an error ──┘   with growing pauses, no two agents at the same moment

After a cut everything is listed again, and the differences are told: a server may have been restored from a backup meanwhile,
and then a watch from the last version would be silent for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing

import msgspec
from msgspec import Struct

from percale.backoff import Backoff, spread
from percale.errors import BadManifest, StoreUnavailable
from percale.model.manifest.json_text import decode_json
from percale.model.meta import Object, ObjectKey
from percale.store.decode import MAY_BE_MISSED, decode_object, identify, isolation_of
from percale.store.encoded_object import EncodedObject
from percale.store.kind_cache import Change, KindCache
from percale.store.kubernetes.api_client import ApiClient, ApiRefusal, Cut
from percale.store.kubernetes.list_pages import Expired, KindAbsent, ListMeta, list_pages
from percale.store.kubernetes.resources import collection_path, operation
from percale.store.protocol import ReadProblem

_FIRST_RETRY, _LONGEST_RETRY = 0.2, 20.0
"""Seconds."""
_STEADY = 10.0
"""Seconds after which a watch counts as working, so that its end is not one more failure."""
_WATCH_SECONDS = 360.0
"""After such a time, more or less, the server ends a watch, and it goes on from there."""
ABSENT_RECHECK = 30.0
"""Seconds until a kind that the server does not have is looked for again: its CRD may be installed at any time."""


class _WatchEvent(Struct, frozen=True):
    type: str
    object: msgspec.Raw


_EVENT = msgspec.json.Decoder(_WatchEvent)


class _Bookmark(Struct, frozen=True):
    metadata: ListMeta


_BOOKMARK = msgspec.json.Decoder(_Bookmark)


class _Broken(Exception):
    """The server cannot go on with this watch."""


class ListWatch:
    """All methods are called on the event loop."""

    def __init__(
        self,
        api: ApiClient,
        kind: type[Object],
        caches: Sequence[KindCache],
        publish: Callable[[Iterable[Change | ReadProblem]], None],
        *,
        isolate: bool = False,
    ) -> None:
        """`kind` is the server's, `caches` keep it or projections of it; `publish` gets their events."""
        self._api = api
        self._kind = kind
        self._caches = caches
        self._publish = publish
        self._isolate = isolate
        self._invalid: set[ObjectKey] = set()
        self._replaced: set[ObjectKey] = set()
        """Those of which the caches keep the isolation, for there was no valid state yet."""
        self._failing = False
        self._missed = False
        self.listed = asyncio.Event()
        self.attempted = asyncio.Event()
        """It is listed, or the server did not do it."""

    @property
    def caches(self) -> Sequence[KindCache]:
        return self._caches

    @property
    def resource(self) -> str:
        return self._kind.PLURAL

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                version = await self._list()
                if version is None:
                    await asyncio.sleep(spread(ABSENT_RECHECK))
                    continue
                began = clock()
                async with asyncio.timeout(self._confirm_in()):
                    await self._follow(version)
            except TimeoutError:
                continue
            except (Cut, Expired, _Broken):
                pass  # listing again repairs it, or says what is wrong
            except StoreUnavailable as error:
                self._failing = True
                self._publish([ReadProblem(self._kind.PLURAL, error)])
                self.attempted.set()
            if clock() - began > _STEADY:
                backoff.reset()
            await asyncio.sleep(spread(backoff.next()))

    # List

    async def _list(self) -> str | None:
        """The version to watch from; None if the server does not have the kind. Raises StoreUnavailable, Expired."""
        entries: list[dict[ObjectKey, EncodedObject | None]] = [{} for _ in self._caches]
        repaired = set(self._invalid)
        version = ""
        try:
            async for page in list_pages(self._api, self._kind):
                version = page.metadata.resourceVersion
                for data in page.items or ():
                    source = self._sort_in(data, entries)
                    if source is not None:
                        repaired.discard(source)
        except KindAbsent:
            self._replace_by_none()
            return None
        except msgspec.MsgspecError as error:
            raise StoreUnavailable(f"not a list of {self.resource}: {error}", where=self._api.server) from error
        for source in repaired:
            self._report(source, None)
        self._publish_list(entries)
        return version

    def _sort_in(self, data: msgspec.Raw, entries: Sequence[dict[ObjectKey, EncodedObject | None]]) -> ObjectKey | None:
        """Into the entries of each cache; returns the key if the object is invalid, and keeps its last valid state."""
        try:
            obj = decode_object(data, self._kind)
        except BadManifest as error:
            source = identify(data).key
            self._report(source, error)
            instead = self._instead(source, data)
            for cache, found in zip(self._caches, entries, strict=True):
                if instead is not None:
                    found[source] = cache.entry_of(instead)
                elif source in cache:
                    found[source] = cache.keep(source)
            return source
        for cache, found in zip(self._caches, entries, strict=True):
            found[obj.key] = cache.entry_of(obj)
        return None

    def _publish_list(self, entries: Sequence[dict[ObjectKey, EncodedObject | None]]) -> None:
        for cache, found in zip(self._caches, entries, strict=True):
            self._publish(cache.replace(found))
        for cache in self._caches:
            self._publish(cache.report_missing())
        self._missed = False
        self.listed.set()
        self.attempted.set()
        if self._failing:
            self._failing = False
            self._publish([ReadProblem(self._kind.PLURAL, None)])

    def _replace_by_none(self) -> None:
        """Objects that were there go only when the server says it twice: one that starts does not know all its kinds yet."""
        if any(len(each) for each in self._caches) and not self._missed:
            self._missed = True
            raise StoreUnavailable(f"the server has no {self._kind.PLURAL} any more", where=self._api.server)
        self._publish_list([{} for _ in self._caches])

    def _confirm_in(self) -> float | None:
        """Seconds until everything is to be listed again, for objects that this list lacked."""
        return max((each.confirm_in for each in self._caches if each.confirm_in is not None), default=None)

    # Watch

    async def _follow(self, version: str) -> None:
        """Watch until something fails. Raises StoreUnavailable, Cut, _Broken."""
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            version = await self._watch(version)
            if clock() - began < _STEADY:
                return  # the server ends watches at once: not without a pause

    async def _watch(self, version: str) -> str:
        """The last version when the server has ended the watch. Raises StoreUnavailable, Cut, _Broken."""
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(round(spread(_WATCH_SECONDS))),
        }
        lines = self._api.watch(collection_path(self._kind), operation("watch", self._kind), params)
        try:
            async with aclosing(lines):
                async for line in lines:
                    version = self._apply(line) or version
        except ApiRefusal as error:
            raise _Broken from error
        return version

    def _apply(self, line: bytes) -> str | None:
        """The version of the event. Raises _Broken."""
        try:
            event = decode_json(_EVENT, line)
            if event.type == "ERROR":
                raise _Broken
            if event.type == "BOOKMARK":
                return decode_json(_BOOKMARK, event.object).metadata.resourceVersion
            identity = identify(event.object)
        except msgspec.MsgspecError as error:
            raise _Broken from error
        if event.type == "DELETED":
            self._report(identity.key, None)
            for cache in self._caches:
                self._publish(cache.remove(identity.key))
            return identity.version
        try:
            obj = decode_object(event.object, self._kind)
        except BadManifest as error:
            self._report(identity.key, error)
            instead = self._instead(identity.key, event.object)
            if instead is None:
                return identity.version
            obj = instead
        else:
            self._report(identity.key, None)
        for cache in self._caches:
            self._publish(cache.put(identity.key, cache.entry_of(obj)))
        return identity.version

    def _instead(self, source: ObjectKey, data: msgspec.Raw) -> Object | None:
        """What counts instead of an invalid object; None: its last valid state, or nothing."""
        known = any(source in cache for cache in self._caches)
        wanted = self._isolate and (not known or source in self._replaced)
        instead = isolation_of(self._kind, source, data) if wanted else None
        if instead is not None:
            self._replaced.add(source)
        return instead

    def _report(self, source: ObjectKey, error: BadManifest | None) -> None:
        """An object became invalid, or is valid again or gone."""
        if error is not None:
            self._invalid.add(source)
        elif source in self._invalid:
            self._invalid.discard(source)
            self._replaced.discard(source)
        else:
            return
        complete = error is not None and self._kind in MAY_BE_MISSED
        self._publish([ReadProblem(f"{self._kind.KIND} {source}", error, complete, (self._kind, source))])
