"""Connections of the stores that are servers, none of which outlives the event loop."""

from __future__ import annotations

from typing import Any

from percale.store.http_library import aiohttp


class Connector(aiohttp.TCPConnector):
    """Cuts a connection that it does not keep, a watch's or that of a request that was given up.

    TLS's own end waits for the server's answer. aiohttp aborts connections only when it is closed, and only those it still has.
    """

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        if (should_close or protocol.should_close) and protocol.transport is not None:
            protocol.transport.abort()
        super()._release(key, protocol, should_close=should_close)
