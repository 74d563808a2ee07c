"""From the agent's `store` setting to a store. Called by the agent."""

from __future__ import annotations

from pathlib import Path

from percale.errors import BadConfig
from percale.store.files import FilesStore
from percale.store.protocol import Store


def open_store(address: str) -> Store:
    """`files:DIR`. Raises BadConfig."""
    scheme, _, rest = address.partition(":")
    if scheme == "files" and rest:
        return FilesStore(Path(rest))
    raise BadConfig(f'no store "{address}"', where="store", hint="write files:DIRECTORY")
