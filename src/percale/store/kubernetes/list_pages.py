"""Lists all objects of a kind, page by page. Called by `list_watch.py` and `store.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from msgspec import Struct

from percale.errors import StoreUnavailable
from percale.model.manifest.json_text import decode_json
from percale.model.meta import Object
from percale.store.kubernetes.api_client import ApiClient, ApiRefusal
from percale.store.kubernetes.resources import BUILT_IN_GROUPS, collection_path, operation

PAGE = 500
"""Objects per request."""


class ListMeta(Struct, frozen=True):
    """`resourceVersion` is the same on all pages of a list."""

    resourceVersion: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class Page(Struct, frozen=True):
    """Some of the objects."""

    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


_PAGE = msgspec.json.Decoder(Page)


class KindAbsent(Exception):
    """The server does not have the kind: its CRD is not installed."""


class Expired(StoreUnavailable):
    """Fetching the pages took longer than the server keeps a version."""


async def list_pages(api: ApiClient, kind: type[Object]) -> AsyncIterator[Page]:
    """Raises StoreUnavailable, and KindAbsent before the first page."""
    params = {"limit": str(PAGE)}
    while True:
        try:
            body = await api.get(collection_path(kind), operation("list", kind), params)
            page = decode_json(_PAGE, body)
        except ApiRefusal as error:
            if error.code == 404 and kind.api_group() not in BUILT_IN_GROUPS:
                raise KindAbsent(kind.PLURAL) from error
            failure = Expired if error.code == 410 else StoreUnavailable
            raise failure(f"{kind.PLURAL} cannot be listed: {error}", where=api.server) from error
        except msgspec.MsgspecError as error:
            raise StoreUnavailable(f"not a list of {kind.PLURAL}: {error}", where=api.server) from error
        yield page
        if not page.metadata.continue_:
            return
        params["continue"] = page.metadata.continue_
