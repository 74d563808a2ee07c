"""Opens a store by its address. Called by the agent and by the lab's controller."""

from __future__ import annotations

from pathlib import Path

from percale.errors import BadConfig
from percale.model.kinds import KINDS, Kinds
from percale.store.files.store import FilesStore
from percale.store.protocol import Store


def open_store(address: str, kinds: Kinds = KINDS) -> Store:
    """`files:DIRECTORY`. Nothing is read before the first operation. Raises BadConfig.

    A missing directory is an unavailable store: creating an empty one would lose the whole cluster.
    """
    scheme, _, rest = address.partition(":")
    if scheme == "files" and rest:
        return FilesStore(Path(rest), kinds=kinds, make=False)
    raise BadConfig(f'no store "{address}"', where="store", hint="write files:/DIRECTORY")
