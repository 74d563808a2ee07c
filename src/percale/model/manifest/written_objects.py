"""Where the parts of decoded objects are written. Called by `cli/` and `explain/` for the lines that they name.

Decoding keeps no nodes: a file is parsed again when somebody asks, and then once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from percale.model.field_path import FieldPath
from percale.model.manifest.decode import Source, node_at, read_nodes
from percale.model.manifest.diagnostics import SourceText
from percale.model.manifest.files import Document
from percale.model.manifest.syntax_tree import Node, descend, plain_value


class WrittenObjects:
    """Objects as their files have them."""

    def __init__(self, documents: Iterable[Document] = ()) -> None:
        self._texts = dict(documents)
        self._read: dict[str, tuple[Node, ...]] = {}

    def node(self, source: Source) -> Node:
        """The node of an object that was decoded from these texts."""
        file = source.file
        if file not in self._read:
            self._read[file] = tuple(read_nodes(self._texts[file], file))
        node = node_at(self._read[file], source)
        assert node is not None
        return node

    def line(self, source: Source, path: FieldPath) -> int:
        """The line of a field; of what holds it, if it is not written."""
        return descend(self.node(source), path)[1]

    def text(self, source: Source) -> SourceText:
        """For `diagnose`."""
        return SourceText(self.node(source), self._texts[source.file], source.file)

    def value(self, source: Source) -> Any:
        """The object as dicts, lists and scalars."""
        return plain_value(self.node(source), len(self._texts[source.file]), str(source))
