"""Object versions: the digest of an object's content. Called by `files/` and `memory.py`."""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeVar

from msgspec.structs import replace

from percale.errors import Conflict, NotFound
from percale.model.manifest.decode import with_namespace
from percale.model.manifest.encode import to_json
from percale.model.meta import Object, ObjectKey

T = TypeVar("T", bound=Object)


def versioned(obj: T) -> T:
    """The object as stored: with its default namespace and the version of its content."""
    bare = with_namespace(unversioned(obj))
    return with_version(bare, version_of(to_json(bare)))


def version_of(content: bytes) -> str:
    """The version for an object's JSON, which contains none."""
    return blake2b(content, digest_size=8).hexdigest()


def with_version(obj: T, version: str) -> T:
    """Set the version of an object without one."""
    return replace(obj, metadata=replace(obj.metadata, resourceVersion=version))


def unversioned(obj: T) -> T:
    """The object as written to a file."""
    if obj.metadata.resourceVersion is None:
        return obj
    return replace(obj, metadata=replace(obj.metadata, resourceVersion=None))


def check_version(kind: type[Object], key: ObjectKey, version: str | None, expect: str | None) -> None:
    """The compare of compare-and-put: `version` is the current one, None if the object does not exist. Raises Conflict."""
    if expect is None or expect == (version or ""):
        return
    if version is None:
        what = "is gone"
    elif expect == "":
        what = "exists already"
    else:
        what = f"has changed (version {version}, expected {expect})"
    raise Conflict(f"{kind.KIND} {key} {what}", hint="read it again")


def not_found(kind: type[Object], key: ObjectKey) -> NotFound:
    """The error for a missing object."""
    return NotFound(f"there is no {kind.KIND} {key}")
