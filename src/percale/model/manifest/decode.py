"""Decodes manifests: the bytes of a YAML or JSON file → objects with their sources. Called by the stores, the lab and commands.

JSON ─▶ msgspec, validation ──────────────────────────────────────────────▶ objects
         └ rejected ─▶ json_reader ─┐
YAML ──────────────▶ yaml_reader ───┴▶ nodes ─▶ plain values ─▶ validation, msgspec ─▶ objects
                                         └────── rejected ─▶ diagnostics: which line, what to write
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from percale.errors import BadManifest
from percale.model.kinds import KINDS, Kinds
from percale.model.manifest.decoders import converted, decoder_of
from percale.model.manifest.diagnostics import SourceText, combined, diagnose
from percale.model.manifest.json_reader import read_json
from percale.model.manifest.left_out import NOT_KNOWN, LeftOut, is_foreign, why_left_out
from percale.model.manifest.schema import type_errors, without_nulls
from percale.model.manifest.syntax_tree import Node, descend, plain_value
from percale.model.manifest.unknown_fields import closed_type, unknown_field_errors
from percale.model.meta import Object, ObjectKey
from percale.model.validation.validators import field_errors, has_validator

T = TypeVar("T", bound=Object)

DEFAULT_NAMESPACE = "default"


class Source(msgspec.Struct, frozen=True, gc=False):
    """The place of an object in a file. `document` counts from 0; `item` is its index when the document is a list."""

    file: str
    line: int
    document: int = 0
    item: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class ManifestEntry(msgspec.Struct, frozen=True, gc=False):
    """An object and its source."""

    object: Object
    source: Source


class SkippedDocument(msgspec.Struct, frozen=True, gc=False):
    """A document of a kind that Percale does not know, which is no error."""

    api_version: str
    kind: str
    source: Source
    why: LeftOut = NOT_KNOWN
    name: str = ""

    def __str__(self) -> str:
        hint = f"; {self.why.hint}" if self.why.hint else ""
        return f"{self.source}: {self.kind} of {self.api_version} {self.why.reason}, left out{hint}"


class Manifest(Struct, frozen=True):
    """The content of a file, in its order; without entries if it has faults."""

    entries: tuple[ManifestEntry, ...] = ()
    skipped: tuple[SkippedDocument, ...] = ()
    unknown: tuple[BadManifest, ...] = ()
    """Fields that Kubernetes does not have, where they were looked for."""
    faults: tuple[BadManifest, ...] = ()

    @property
    def skipped_that_matter(self) -> tuple[SkippedDocument, ...]:
        """Policies that are not enforced, and misspelt kinds."""
        return tuple(each for each in self.skipped if each.why.matters)

    @property
    def objects(self) -> tuple[Object, ...]:
        return tuple(each.object for each in self.entries)


def decode_manifest(data: bytes, file: str, *, kinds: Kinds = KINDS, namespace: str = DEFAULT_NAMESPACE) -> Manifest:
    """The objects of a file; `namespace` is the default of namespaced ones.

    Raises BadManifest with all errors of the file: either all of it is valid, or none is used.
    """
    manifest = _decode(data, file, kinds, namespace, find_unknown=False)
    if manifest.faults:
        raise combined(manifest.faults)
    return manifest


def inspect_manifest(data: bytes, file: str, *, kinds: Kinds = KINDS, namespace: str = DEFAULT_NAMESPACE) -> Manifest:
    """The same with its faults, and with its unknown fields."""
    return _decode(data, file, kinds, namespace, find_unknown=True)


def _decode(data: bytes, file: str, kinds: Kinds, namespace: str, *, find_unknown: bool) -> Manifest:
    manifest = _decode_json(data, file, kinds, find_unknown=find_unknown)
    if manifest is None:
        manifest = _decode_nodes(data, file, kinds, find_unknown=find_unknown)
    faults = (*manifest.faults, *_misnamed(manifest.entries))
    found = tuple(ManifestEntry(with_namespace(each.object, namespace), each.source) for each in manifest.entries)
    if not faults and len(found) > 1:
        faults = tuple(_duplicates(found))
    return Manifest(() if faults else found, manifest.skipped, manifest.unknown, faults)


def _misnamed(found: Iterable[ManifestEntry]) -> Iterator[BadManifest]:
    for each in found:
        metadata = each.object.metadata
        if not metadata.name:
            yield BadManifest("metadata.name: missing", where=str(each.source), hint="give the object a name")
        for field, name in (("name", metadata.name), ("namespace", metadata.namespace)):
            if name is not None and not name.isprintable():
                yield BadManifest(
                    f"metadata.{field}: has characters that cannot be printed: {name!r}",
                    where=str(each.source),
                    hint="use small letters, digits, '-' and '.'",
                )


def _duplicates(found: Iterable[ManifestEntry]) -> Iterator[BadManifest]:
    first: dict[tuple[type[Object], ObjectKey], Source] = {}
    for each in found:
        earlier = first.setdefault((type(each.object), each.object.key), each.source)
        if earlier is not each.source:
            yield BadManifest(
                f"{each.object.KIND} {each.object.key} is in this file twice (first on line {earlier.line})",
                where=str(each.source),
                hint="remove one of them",
            )


def with_namespace(obj: T, namespace: str = DEFAULT_NAMESPACE) -> T:
    """The object with its namespace defaulted; without one if it is cluster-scoped."""
    home = (obj.metadata.namespace or namespace) if obj.NAMESPACED else None
    return obj if obj.metadata.namespace == home else replace(obj, metadata=replace(obj.metadata, namespace=home))


def object_node(data: bytes, source: Source) -> Node | None:
    """The object's node in a file; None if it is not there any more. Raises BadManifest."""
    return node_at(read_nodes(text_of(data, source.file), source.file), source)


def node_at(documents: Iterable[Node], source: Source) -> Node | None:
    """The same for a parsed file."""
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
    """The non-empty documents of a file, as nodes. Raises BadManifest."""
    if file.endswith(".json"):
        return iter((read_json(text, file),)) if text.strip() else iter(())
    from percale.model.manifest.yaml_reader import read_yaml  # noqa: PLC0415 -- stores on servers have none

    return read_yaml(text, file)


# Valid JSON, without nodes


class _TypeMeta(msgspec.Struct):
    apiVersion: str = ""
    kind: str = ""


class _Document(_TypeMeta):
    """A list, or the type of an object."""

    items: list[msgspec.Raw] = []


_TYPE_META = msgspec.json.Decoder(_TypeMeta)
_DOCUMENT = msgspec.json.Decoder(_Document)


def from_json(data: bytes, kind: type[T]) -> T:
    """The inverse of `to_json`."""
    found: T = decoder_of(kind).decode(data)
    return found


class _NeedsTree(Exception):
    """Invalid, or not handled here: decoded again from nodes, which know lines."""


def _decode_json(data: bytes, file: str, kinds: Kinds, *, find_unknown: bool) -> Manifest | None:
    """None if it is not JSON, not valid, or has unknown fields that are to be found."""
    if data.lstrip()[:1] != b"{":
        return None
    try:
        parts = _json_parts(data, file, kinds)
        if find_unknown:
            for text, kind, _ in parts:
                decoder_of(closed_type(kind)).decode(text)
        return Manifest(tuple(ManifestEntry(_decode_valid(text, kind), source) for text, kind, source in parts))
    except (msgspec.DecodeError, _NeedsTree, UnicodeDecodeError, RecursionError):
        return None


def _json_parts(data: bytes, file: str, kinds: Kinds) -> list[tuple[bytes | msgspec.Raw, type[Object], Source]]:
    """Each object's text and kind."""
    document = _DOCUMENT.decode(data)
    if document.kind == "List":
        found = [_known_type(_TYPE_META.decode(item), kinds) for item in document.items]
    elif _is_list(document.kind, kinds):
        item_type = _TypeMeta(document.apiVersion, document.kind.removesuffix("List"))
        found = [_known_type(item_type, kinds)] * len(document.items)
    else:
        return [(data, _known_type(document, kinds), Source(file, 1))]
    sources = (Source(file, 1, 0, index) for index in range(len(found)))
    return list(zip(document.items, found, sources, strict=True))


def _decode_valid(data: bytes | msgspec.Raw, kind: type[Object]) -> Object:
    """Validates the plain value: a decoded object does not distinguish an empty list from an absent one."""
    if has_validator(kind) and field_errors(kind, msgspec.json.decode(data)):
        raise _NeedsTree
    found: Object = decoder_of(kind).decode(data)
    return found


def _known_type(found: _TypeMeta, kinds: Kinds) -> type[Object]:
    kind = kinds.get(found.kind)
    if kind is None or not kind.is_version(found.apiVersion):
        raise _NeedsTree
    return kind


# YAML, and invalid JSON


Candidate: TypeAlias = tuple[Node, dict[str, Any], Source]
"""An object's node, plain value and source."""


def _decode_nodes(data: bytes, file: str, kinds: Kinds, *, find_unknown: bool) -> Manifest:
    found: list[ManifestEntry] = []
    skipped: list[SkippedDocument] = []
    faults: list[BadManifest] = []
    unknown: list[BadManifest] = []
    try:
        text = text_of(data, file)
        for index, document in enumerate(read_nodes(text, file)):
            for node, value, source in _candidates(document, index, text, file, kinds):
                written = SourceText(node, text, file)
                try:
                    kind = _known_kind(node, value, source, kinds)
                    if isinstance(kind, SkippedDocument):
                        skipped.append(kind)
                        continue
                    if find_unknown:
                        unknown += unknown_field_errors(kind, value, written)
                    found.append(ManifestEntry(object_of(kind, value, written), source))
                except BadManifest as fault:
                    faults += fault.parts
    except BadManifest as fault:
        faults += fault.parts
    if faults and (template := _not_rendered(data, file)) is not None:
        return Manifest(faults=(template,))
    return Manifest(tuple(found), tuple(skipped), tuple(unknown), tuple(faults))


_TEMPLATE = re.compile(rb"\{\{-?\s*[.$A-Za-z\"/]")


def _not_rendered(data: bytes, file: str) -> BadManifest | None:
    """A Helm template: what YAML makes of it helps nobody."""
    match = _TEMPLATE.search(data)
    if match is None:
        return None
    line = data.count(b"\n", 0, match.start()) + 1
    return BadManifest(
        "a template that is not rendered", where=f"{file}:{line}", hint="give the output of `helm template`"
    )


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


def _known_kind(node: Node, value: dict[str, Any], source: Source, kinds: Kinds) -> type[Object] | SkippedDocument:
    """Raises BadManifest for another version of a known kind."""
    version, name = (_type_field(node, value, key, source, kinds) for key in ("apiVersion", "kind"))
    kind = kinds.get(name)
    if kind is not None and kind.is_version(version):
        return kind
    if kind is None or is_foreign(version, kind.API_VERSION):
        metadata = value.get("metadata")
        called = metadata.get("name") if isinstance(metadata, dict) else None
        why = why_left_out(version, name, kinds)
        return SkippedDocument(version, name, source, why, called if isinstance(called, str) else "")
    line = descend(node, ("apiVersion",))[1]
    raise BadManifest(
        f"apiVersion: {name} of {version} is not known here",
        where=f"{source.file}:{line}",
        hint=f"write {kind.API_VERSION}",
    )


def object_of(kind: type[T], value: dict[str, Any], written: SourceText) -> T:
    """Raises BadManifest with all that is wrong with it."""
    errors, plain = field_errors(kind, value), without_nulls(kind, value)
    try:
        obj = converted(plain, kind)
    except msgspec.ValidationError as error:
        raise diagnose(errors, type_errors(kind, plain), kind, written) from error
    if errors:
        raise diagnose(errors, (), kind, written)
    return obj


def _type_field(node: Node, value: dict[str, Any], key: str, source: Source, kinds: Kinds) -> str:
    field = value.get(key)
    if not isinstance(field, str) or not field:
        line = descend(node, (key,))[1]
        what = "missing" if field is None else "expected a text"
        kind = kinds.get(str(value.get("kind"))) if key == "apiVersion" else None
        example = "v1" if key == "apiVersion" else "Pod"
        hint = f"write `{key}: {kind.API_VERSION}`" if kind is not None else f"for example `{key}: {example}`"
        raise BadManifest(f"{key}: {what}", where=f"{source.file}:{line}", hint=hint)
    return field


def _is_list(kind: str, kinds: Kinds) -> bool:
    return kind == "List" or (kind.endswith("List") and kind[:-4] in kinds)
