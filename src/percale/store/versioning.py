"""What "the same" means to a store: an object's version is the digest of its content. Called by `files` and `memory`."""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeVar

from msgspec.structs import replace

from percale.errors import Conflict, NotFound
from percale.model.manifest.decode import settled
from percale.model.manifest.encode import to_json
from percale.model.meta import Object, ObjectKey

T = TypeVar("T", bound=Object)


def versioned(obj: T) -> T:
    """The object as the store has it: in its namespace, with the version of its content."""
    bare = settled(unversioned(obj))
    return with_version(bare, version_of(to_json(bare)))


def version_of(content: bytes) -> str:
    """Of an object's JSON, which is without a version."""
    return blake2b(content, digest_size=8).hexdigest()


def with_version(obj: T, version: str) -> T:
    """An object that has none."""
    return replace(obj, metadata=replace(obj.metadata, resourceVersion=version))


def unversioned(obj: T) -> T:
    """The object as it is written down."""
    if obj.metadata.resourceVersion is None:
        return obj
    return replace(obj, metadata=replace(obj.metadata, resourceVersion=None))


def check(kind: type[Object], key: ObjectKey, version: str | None, expect: str | None) -> None:
    """The compare of compare-and-put: `version` is what is there, None: nothing. Raises Conflict."""
    if expect is None or expect == (version or ""):
        return
    if version is None:
        what = "is gone"
    elif expect == "":
        what = "exists already"
    else:
        what = f"has changed (version {version}, expected {expect})"
    raise Conflict(f"{kind.KIND} {key} {what}", hint="read it again")


def absent(kind: type[Object], key: ObjectKey) -> NotFound:
    """The error for an object that is not there."""
    return NotFound(f"there is no {kind.KIND} {key}")
