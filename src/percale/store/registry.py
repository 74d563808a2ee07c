"""The store that an address means. Called by the agent and by the lab's controller."""

from __future__ import annotations

from pathlib import Path

from percale.errors import BadConfig
from percale.model.kinds import KINDS, Kinds
from percale.store.files.store import FilesStore
from percale.store.protocol import Store


def open_store(address: str, kinds: Kinds = KINDS) -> Store:
    """`files:DIRECTORY`. Nothing is read before the first question. Raises BadConfig.

    A directory that is not there is a store that is away: making an empty one would forget the whole cluster.
    """
    scheme, _, rest = address.partition(":")
    if scheme == "files" and rest:
        return FilesStore(Path(rest), kinds=kinds, make=False)
    raise BadConfig(f'no store "{address}"', where="store", hint="write files:/DIRECTORY")
