"""etcd's messages (v3, by its JSON gateway): bytes are base64 there, and 64-bit integers texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

Body = dict[str, Any]


class Header(Struct, frozen=True):
    """`revision` counts all changes of the cluster."""

    revision: int = 0


class KeyValue(Struct, frozen=True):
    """`lease` 0: none."""

    key: bytes
    value: bytes = b""
    mod_revision: int = 0
    lease: int = 0


class RangeResponse(Struct, frozen=True):
    header: Header = Header()
    kvs: tuple[KeyValue, ...] = ()
    more: bool = False


class TxnPart(Struct, frozen=True):
    """The answer to one change or read."""

    response_range: RangeResponse = RangeResponse()


class TxnResponse(Struct, frozen=True):
    succeeded: bool = False
    responses: tuple[TxnPart, ...] = ()


class Granted(Struct, frozen=True, rename="upper"):
    """A lease; `ttl` in seconds, 0 of one that is gone."""

    id: int = 0
    ttl: int = 0


class KeptAlive(Struct, frozen=True):
    result: Granted = Granted()


class Authenticated(Struct, frozen=True):
    token: str


class Change(Struct, frozen=True):
    """`type` PUT or DELETE."""

    kv: KeyValue
    type: str = "PUT"


class WatchResponse(Struct, frozen=True):
    """`compact_revision` is set when the changes from the wanted revision on are not known any more."""

    events: tuple[Change, ...] = ()
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""


class Failure(Struct, frozen=True):
    """An answer that is none. `code` is gRPC's."""

    message: str = ""
    error: str | Body = ""
    code: int = 0


class WatchLine(Struct, frozen=True):
    result: WatchResponse | None = None
    error: Failure | None = None


def end_of(prefix: bytes) -> bytes:
    """The first key after all keys that begin with `prefix`."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def range_of(prefix: bytes, *, after: bytes | None = None, revision: int = 0, limit: int = 0) -> Body:
    """All keys that begin with `prefix`, or those of them behind `after`, as they were at `revision`."""
    first = prefix if after is None else after + b"\0"
    return {"key": first, "range_end": end_of(prefix), "revision": revision, "limit": limit}


def txn(unchanged: Iterable[tuple[bytes, int]], changes: Sequence[Body]) -> Body:
    """The changes, if each key has this revision still (0: does not exist)."""
    compare = [{"key": key, "target": "MOD", "mod_revision": revision} for key, revision in unchanged]
    return {"compare": compare, "success": changes}


def put(key: bytes, value: bytes, lease: int) -> Body:
    return {"request_put": {"key": key, "value": value, "lease": lease}}


def delete(key: bytes) -> Body:
    return {"request_delete_range": {"key": key}}


def watch(prefix: bytes, revision: int) -> Body:
    """From this revision on."""
    return {"create_request": {"key": prefix, "range_end": end_of(prefix), "start_revision": revision}}
