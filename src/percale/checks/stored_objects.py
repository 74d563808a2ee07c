"""Objects of the agent's store, as checks of a running node compare them with the kernel. Used by `host.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar, cast

from percale.errors import PercaleError, StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.meta import Object
from percale.model.netconf import NET_CONF, NetworkConfig, parse_network_config
from percale.store.registry import open_store

T = TypeVar("T", bound=Object)

_PATIENCE = 2.0
"""Seconds for all objects of a kind."""


class StoredObjects:
    """Each kind is read once."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lists: dict[type[Object], Sequence[Object]] = {}
        self._error: PercaleError | None = None

    def list(self, kind: type[T]) -> Sequence[T]:
        """All of them. Raises PercaleError; a store that has not answered is not asked again."""
        if self._error is not None:
            raise self._error
        if kind not in self._lists:
            try:
                self._lists[kind] = asyncio.run(self._read(kind))
            except PercaleError as error:
                self._error = error
                raise
        return cast("Sequence[T]", self._lists[kind])

    async def _read(self, kind: type[T]) -> Sequence[T]:
        store = open_store(self._address)
        try:
            async with asyncio.timeout(_PATIENCE):
                return await store.list(kind)
        except TimeoutError as error:
            what = f"{kind.KIND} objects are not read within {_PATIENCE:.0f} s"
            raise StoreUnavailable(what, where=self._address) from error
        finally:
            await store.close()


def stored_network(store: StoredObjects) -> NetworkConfig | None:
    """Of the one ConfigMap that has it. None: nobody can tell, which the agent has as its problem."""
    try:
        (chosen,) = (each for each in store.list(ConfigMap) if NET_CONF in each.data)
        return parse_network_config(chosen.data[NET_CONF], f"ConfigMap {chosen.key} {NET_CONF}")
    except (PercaleError, ValueError):
        return None
