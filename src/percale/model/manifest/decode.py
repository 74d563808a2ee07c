"""Manifests: the bytes of a YAML or JSON file → objects, each with its place. Called by the stores and by the lab's verbs.

JSON ─▶ msgspec, validation ─────────────────────────────────────────────▶ objects
         └ refused ─▶ reading_json ─┐
YAML ──────────────▶ reading_yaml ──┴▶ nodes ─▶ plain values ─▶ validation, msgspec ─▶ objects
                                         └────── refused ─▶ complaining: which line, what to type
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from percale.errors import BadManifest
from percale.model.kinds import KINDS, Kinds
from percale.model.manifest.diagnostics import Written, all_of, complaint
from percale.model.manifest.json_reader import read_json
from percale.model.manifest.schema import from_text, without_nulls
from percale.model.manifest.syntax_tree import Node, descend, plain_value
from percale.model.manifest.yaml_reader import read_yaml
from percale.model.meta import Object, ObjectKey
from percale.model.validation.validators import field_errors, has_validator

T = TypeVar("T", bound=Object)

DEFAULT_NAMESPACE = "default"


class Source(msgspec.Struct, frozen=True, gc=False):
    """Where an object is written. `document` counts from 0; `item` is its index when the document is a list."""

    file: str
    line: int
    document: int = 0
    item: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Found(msgspec.Struct, frozen=True, gc=False):
    """An object and where it is written."""

    object: Object
    source: Source


class Skipped(msgspec.Struct, frozen=True, gc=False):
    """A document of a kind that Percale does not know: a directory of manifests may hold anything."""

    api_version: str
    kind: str
    source: Source

    def __str__(self) -> str:
        return f"{self.source}: {self.kind} of {self.api_version} is not known here, left out"


class Manifest(Struct, frozen=True):
    """All that a file holds, in its order."""

    found: tuple[Found, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def objects(self) -> tuple[Object, ...]:
        return tuple(each.object for each in self.found)


def decode_manifest(data: bytes, file: str, *, kinds: Kinds = KINDS, namespace: str = DEFAULT_NAMESPACE) -> Manifest:
    """Every object of a file; those without a namespace are of `namespace`.

    Raises BadManifest with all that is wrong with them: a file counts as a whole, or not at all.
    """
    manifest = _decode_json(data, file, kinds) or _decode_nodes(data, file, kinds)
    found = tuple(_settled(each, namespace) for each in manifest.found)
    if len(found) > 1:
        _refuse_twins(found)
    return Manifest(found, manifest.skipped)


def _refuse_twins(found: tuple[Found, ...]) -> None:
    first: dict[tuple[type[Object], ObjectKey], Source] = {}
    for each in found:
        earlier = first.setdefault((type(each.object), each.object.key), each.source)
        if earlier is not each.source:
            raise BadManifest(
                f"{each.object.KIND} {each.object.key} is in this file twice (first on line {earlier.line})",
                where=str(each.source),
                hint="remove one of them",
            )


def settled(obj: T, namespace: str = DEFAULT_NAMESPACE) -> T:
    """The object with the namespace that it lives in; a cluster-scoped one has none."""
    home = (obj.metadata.namespace or namespace) if obj.NAMESPACED else None
    return obj if obj.metadata.namespace == home else replace(obj, metadata=replace(obj.metadata, namespace=home))


def _settled(each: Found, namespace: str) -> Found:
    if not each.object.metadata.name:
        raise BadManifest("metadata.name: missing", where=str(each.source), hint="give the object a name")
    obj = settled(each.object, namespace)
    return each if obj is each.object else Found(obj, each.source)


def field_line(data: bytes, source: Source, path: str) -> int:
    """The line of a field (`spec.ingress[0]`) of an object; lines are looked up when asked for, and not kept.

    Raises BadManifest when the file is not readable any more.
    """
    node = object_node(data, source)
    steps = tuple(
        int(step) if step.isdecimal() else step for step in path.replace("]", "").replace("[", ".").split(".")
    )
    return descend(node, steps)[1] if node is not None else source.line


def object_node(data: bytes, source: Source) -> Node | None:
    """The part of a file that is this object, None when it is not there any more. Raises BadManifest."""
    return node_at(read_nodes(text_of(data, source.file), source.file), source)


def node_at(documents: Iterable[Node], source: Source) -> Node | None:
    """The same, of a file that is read already."""
    for index, node in enumerate(documents):
        if index == source.document:
            items = node.get("items") if source.item is not None else None
            if items is None:
                return node
            return items.items[source.item or 0] if (source.item or 0) < len(items.items) else None
    return None


def text_of(data: bytes, file: str) -> str:
    """A file's text. Raises BadManifest."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadManifest("not UTF-8 text", where=f"{file}:{line}", hint="save the file as UTF-8") from error


def read_nodes(text: str, file: str) -> Iterator[Node]:
    """The documents of a file that hold anything, as nodes. Raises BadManifest."""
    if file.endswith(".json"):
        return iter((read_json(text, file),)) if text.strip() else iter(())
    return read_yaml(text, file)


# JSON, when nothing is wrong with it


class _Head(msgspec.Struct):
    apiVersion: str = ""
    kind: str = ""


class _Document(_Head):
    """A list, or an object without the rest."""

    items: list[msgspec.Raw] = []


_HEAD = msgspec.json.Decoder(_Head)
_DOCUMENT = msgspec.json.Decoder(_Document)


@cache
def _decoder(kind: type[Object]) -> msgspec.json.Decoder[Object]:
    return msgspec.json.Decoder(kind, dec_hook=from_text)


def from_json(data: bytes, kind: type[T]) -> T:
    """The object that `to_json` wrote."""
    found: T = _decoder(kind).decode(data)  # type: ignore[assignment]
    return found


class _Unusual(Exception):
    """Left to the nodes, which know lines."""


def _decode_json(data: bytes, file: str, kinds: Kinds) -> Manifest | None:
    """None: this is not JSON, or something is wrong with it."""
    if data.lstrip()[:1] != b"{":
        return None
    try:
        document = _DOCUMENT.decode(data)
        if document.kind == "List":
            objects = [_decode_item(item, _HEAD.decode(item), kinds) for item in document.items]
        elif _is_list(document.kind, kinds):
            kind = _kind(document.apiVersion, document.kind[:-4], kinds)
            objects = [_decode_valid(item, kind) for item in document.items]
        else:
            return Manifest((Found(_decode_item(data, document, kinds), Source(file, 1)),))
    except (msgspec.DecodeError, _Unusual, UnicodeDecodeError, RecursionError):
        return None
    return Manifest(tuple(Found(obj, Source(file, 1, 0, index)) for index, obj in enumerate(objects)))


def _decode_item(data: bytes | msgspec.Raw, head: _Head, kinds: Kinds) -> Object:
    return _decode_valid(data, _kind(head.apiVersion, head.kind, kinds))


def _decode_valid(data: bytes | msgspec.Raw, kind: type[Object]) -> Object:
    """Validated as it is written: a decoded object does not tell an empty list from one that is not there."""
    if has_validator(kind) and field_errors(kind, msgspec.json.decode(data)):
        raise _Unusual
    return _decoder(kind).decode(data)


def _kind(version: str, name: str, kinds: Kinds) -> type[Object]:
    kind = kinds.get(name)
    if kind is None or version != kind.API_VERSION:
        raise _Unusual
    return kind


# YAML, and JSON that has to be looked at closely


Candidate: TypeAlias = tuple[Node, dict[str, Any], Source]
"""An object's node, and its plain value."""


def _decode_nodes(data: bytes, file: str, kinds: Kinds) -> Manifest:
    text = text_of(data, file)
    found: list[Found] = []
    skipped: list[Skipped] = []
    faults: list[BadManifest] = []
    try:
        for index, document in enumerate(read_nodes(text, file)):
            for node, value, source in _candidates(document, index, text, file, kinds):
                try:
                    part = _object(node, value, source, text, kinds)
                except BadManifest as fault:
                    faults.append(fault)
                    continue
                if isinstance(part, Found):
                    found.append(part)
                else:
                    skipped.append(part)
    except BadManifest as fault:
        faults.append(fault)
    if faults:
        raise all_of(faults)
    return Manifest(tuple(found), tuple(skipped))


def _candidates(node: Node, index: int, text: str, file: str, kinds: Kinds) -> Iterator[Candidate]:
    """The objects of a document, which may be a list."""
    where = f"{file}:{node.line}"
    if node.shape != "mapping":
        raise BadManifest("not an object", where=where, hint="a manifest begins with apiVersion, kind and metadata")
    value = plain_value(node, len(text), where)
    version, name = value.get("apiVersion"), value.get("kind")
    if not (isinstance(name, str) and _is_list(name, kinds)):
        yield node, value, Source(file, node.line, index)
        return
    items = node.get("items")
    values = [] if value.get("items") is None else value["items"]
    if not isinstance(values, list):
        raise BadManifest("items: expected a list", where=f"{file}:{items.line if items else node.line}")
    inherited = {"apiVersion": version, "kind": name.removesuffix("List")} if name != "List" else {}
    for number, (item, plain) in enumerate(zip(items.items if items else (), values, strict=True)):
        if not isinstance(plain, dict):
            raise BadManifest(f"items[{number}]: not an object", where=f"{file}:{item.line}")
        yield item, {**plain, **inherited}, Source(file, item.line, index, number)


def _object(node: Node, value: dict[str, Any], source: Source, text: str, kinds: Kinds) -> Found | Skipped:
    version, name = (_word(node, value, key, source) for key in ("apiVersion", "kind"))
    kind = kinds.get(name)
    if kind is None:
        return Skipped(version, name, source)
    if version != kind.API_VERSION:
        line = descend(node, ("apiVersion",))[1]
        raise BadManifest(
            f"apiVersion: {name} of {version} is not known here",
            where=f"{source.file}:{line}",
            hint=f"write {kind.API_VERSION}",
        )
    errors, refusal = field_errors(kind, value), None
    try:
        obj = msgspec.convert(without_nulls(kind, value), kind, dec_hook=from_text)
    except msgspec.ValidationError as error:
        refusal = str(error)
    else:
        if not errors:
            return Found(obj, source)
    raise complaint(errors, refusal, kind, Written(node, text, source.file))


def _word(node: Node, value: dict[str, Any], key: str, source: Source) -> str:
    word = value.get(key)
    if not isinstance(word, str) or not word:
        line = descend(node, (key,))[1]
        what = "missing" if word is None else "expected a text"
        example = "v1" if key == "apiVersion" else "Pod"
        raise BadManifest(f"{key}: {what}", where=f"{source.file}:{line}", hint=f"for example `{key}: {example}`")
    return word


def _is_list(kind: str, kinds: Kinds) -> bool:
    return kind == "List" or (kind.endswith("List") and kind[:-4] in kinds)
