"""Loads the manifests that a command was given, with all that is wrong in them. Called by `cli/` and `lab/spec/input.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from percale.errors import BadManifest
from percale.model.kinds import KINDS, Kinds
from percale.model.manifest.decode import (
    DEFAULT_NAMESPACE,
    Manifest,
    ManifestEntry,
    SkippedDocument,
    Source,
    inspect_manifest,
)
from percale.model.manifest.diagnostics import combined
from percale.model.manifest.files import Document
from percale.model.manifest.json_text import read_json_text
from percale.model.manifest.strictness import Validation
from percale.model.manifest.written_objects import WrittenObjects
from percale.model.meta import ObjectKey


class LoadedManifests(Manifest, frozen=True, dict=True):
    """The content of several files, in their order."""

    documents: tuple[Document, ...] = ()
    """The files."""
    networks: tuple[Document, ...] = ()
    """Files that are a net-conf.json by itself."""
    duplicates: tuple[BadManifest, ...] = ()
    """Objects that are there twice."""

    @cached_property
    def written(self) -> WrittenObjects:
        """Where they are written."""
        return WrittenObjects(self.documents)

    def warnings(self, validate: Validation = "strict", *, policies: bool = True) -> tuple[str, ...]:
        """What somebody should know: policies that are not enforced, pods that are missing, misspelt kinds, and unknown
        fields where they pass."""
        matter = (each for each in self.skipped if each.why.matters or each.why.pods)
        skipped = (str(each) for each in matter if policies or not each.why.policy)
        return (*skipped, *self._unknown_that_pass(validate))

    def notes(self, validate: Validation = "strict") -> tuple[str, ...]:
        """The same with all that is left out."""
        return (*map(str, self.skipped), *self._unknown_that_pass(validate))

    def _unknown_that_pass(self, validate: Validation) -> Iterable[str]:
        return map(str, self.unknown) if validate == "warn" else ()

    def not_empty(self) -> LoadedManifests:
        """The same, for a command that writes what there is. Raises BadManifest."""
        if not self.entries and not self.skipped:
            raise BadManifest("no objects in there", where=", ".join(file for file, _ in self.documents))
        return self

    def valid(self, validate: Validation = "strict") -> LoadedManifests:
        """The same. Raises BadManifest with all that is wrong."""
        if wrong := (*self.faults, *self.duplicates, *(self.unknown if validate == "strict" else ())):
            raise combined(in_order(wrong))
        return self


def load_manifests(
    documents: Iterable[Document],
    kinds: Kinds = KINDS,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    unreadable: Sequence[BadManifest] = (),
) -> LoadedManifests:
    """Decode these files; objects without a namespace are of `namespace`. `unreadable` are the faults of others."""
    documents = tuple(documents)
    entries: list[ManifestEntry] = []
    skipped: list[SkippedDocument] = []
    networks: list[Document] = []
    faults: list[BadManifest] = [*unreadable]
    unknown: list[BadManifest] = []
    for file, text in documents:
        if is_net_conf(text):
            networks.append((file, text))
            continue
        manifest = inspect_manifest(text.encode(), file, kinds=kinds, namespace=namespace)
        faults += manifest.faults
        entries += manifest.entries
        skipped += manifest.skipped
        unknown += manifest.unknown
    return LoadedManifests(
        tuple(entries),
        tuple(skipped),
        tuple(unknown),
        tuple(faults),
        documents=documents,
        networks=tuple(networks),
        duplicates=tuple(_duplicates(entries)),
    )


def in_order(faults: Iterable[BadManifest]) -> list[BadManifest]:
    """Faults of one file together, in the order of its lines."""
    single = [part for each in faults for part in each.parts]
    files = list(dict.fromkeys(each.place[0] for each in single))
    return sorted(single, key=lambda each: (files.index(each.place[0]), each.place[1]))


def is_net_conf(text: str) -> bool:
    """Whether a file is a net-conf.json: a JSON object with a network and without a kind."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        document = read_json_text(text)
    except json.JSONDecodeError:
        return False  # the decoder says where and why
    return "kind" not in document and not {"network", "ipv6network"}.isdisjoint(key.lower() for key in document)


def _duplicates(entries: Sequence[ManifestEntry]) -> Iterator[BadManifest]:
    first: dict[tuple[str, ObjectKey], Source] = {}
    for each in entries:
        earlier = first.setdefault((each.object.KIND, each.object.key), each.source)
        if earlier is not each.source:
            what = f"{each.object.KIND} {each.object.key} is in {earlier} too"
            yield BadManifest(what, where=str(each.source), hint="keep one")
