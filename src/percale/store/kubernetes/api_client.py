"""HTTP requests to an API server. `store.py`, `node_leases.py` and `list_watch.py` call it.

Errors become ours: RBAC, credentials and an unreachable server are StoreUnavailable, each in one line; what depends on the
request (not found, conflict, expired) is ApiRefusal, which the caller translates.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from yarl import URL

from percale.errors import BadManifest, StoreUnavailable
from percale.model.manifest.json_text import decode_json
from percale.store.http_connector import Connector
from percale.store.http_errors import cause
from percale.store.http_library import aiohttp
from percale.store.http_lines import HalfLine, whole_lines
from percale.store.kubernetes.cluster_access import ClusterAccess
from percale.store.kubernetes.credentials import Credentials
from percale.store.kubernetes.proxies import proxy_for
from percale.store.kubernetes.rate_limit import RateLimit
from percale.store.kubernetes.resources import Operation

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
"""For built-in kinds: lists such as conditions are merged by key."""

_RATE, _BURST = 50.0, 100
_TIMEOUT = aiohttp.ClientTimeout(total=30.0, connect=10.0)
_SILENCE = 120.0
"""Seconds without a byte after which a watch counts as cut; the server sends a bookmark every minute."""
_TRIES = 4
_LONGEST_PAUSE = 5.0
"""Seconds between them, whatever the server says."""
_BUSY = frozenset({429, 502, 503, 504})
_USER = re.compile(r'^.*?[Uu]ser "([^"]*)"')


class ApiRefusal(Exception):
    """The server's answer, as its Status object says it."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        super().__init__(f"{code} {reason}: {message}")


class Cut(Exception):
    """An established watch ended early."""


class _Status(Struct, frozen=True):
    code: int = 0
    reason: str = ""
    message: str = ""


_STATUS = msgspec.json.Decoder(_Status)


class ApiClient:
    """For one event loop; connects at the first request."""

    def __init__(self, access: ClusterAccess, environ: Mapping[str, str] | None = None) -> None:
        """`environ`: the proxy's variables, default those of the process."""
        self.server = access.server
        self._base = URL(access.server)
        self._proxy = access.proxy or proxy_for(access.server, os.environ if environ is None else environ)
        self._credentials = Credentials(access, self._proxy)
        self._server_name = access.server_name
        self._limit = RateLimit(_RATE, _BURST)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def get(self, path: str, operation: Operation, params: Mapping[str, str] | None = None) -> bytes:
        """Raises ApiRefusal, StoreUnavailable."""
        return await self._request("GET", path, operation, params=params)

    async def create(self, path: str, operation: Operation, body: Any) -> bytes:
        """The created object. Raises ApiRefusal, StoreUnavailable, BadManifest."""
        return await self._request("POST", path, operation, body=body)

    async def patch(self, path: str, operation: Operation, body: Any, content_type: str = MERGE_PATCH) -> bytes:
        """The changed object. Raises ApiRefusal, StoreUnavailable, BadManifest."""
        return await self._request("PATCH", path, operation, body=body, content_type=content_type)

    async def delete(self, path: str, operation: Operation, body: Any) -> None:
        """Raises ApiRefusal, StoreUnavailable."""
        await self._request("DELETE", path, operation, body=body)

    async def watch(self, path: str, operation: Operation, params: Mapping[str, str]) -> AsyncGenerator[bytes]:
        """The lines of a stream, until the server ends it. Raises ApiRefusal, StoreUnavailable; then Cut."""
        timeout = aiohttp.ClientTimeout(total=None, connect=10.0, sock_connect=10.0, sock_read=_SILENCE)
        async with self._response("GET", path, operation, timeout=timeout, params=params) as response:
            try:
                async for line in whole_lines(response.content.iter_any()):
                    yield line
            except (aiohttp.ClientError, OSError, HalfLine) as error:  # a timeout is an OSError
                raise Cut(str(error)) from error

    async def close(self) -> None:
        """End all requests."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _request(
        self,
        method: str,
        path: str,
        operation: Operation,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> bytes:
        data = msgspec.json.encode(body, enc_hook=str) if body is not None else None
        headers = {"Content-Type": content_type} if data is not None else {}
        async with self._response(
            method, path, operation, timeout=_TIMEOUT, params=params, data=data, headers=headers
        ) as response:
            try:
                return await response.read()
            except (aiohttp.ClientError, OSError) as error:
                raise self._unreachable(error) from error

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, operation: Operation, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful one: retried where the server asks for it, once with new credentials."""
        renewed = False
        for attempt in range(1, _TRIES + 1):
            async with self._sent(method, path, {**(headers or {})}, options) as response:
                if response.status < 300:
                    yield response
                    return
                pause = _retry_after(response) if response.status in _BUSY else None
                refused = await _refusal(response)
            if refused.code == 401 and not renewed:
                self._credentials.reject()
                renewed = True
            elif pause is None or attempt == _TRIES:
                raise self._error(refused, operation)
            else:
                await asyncio.sleep(min(pause, _LONGEST_PAUSE))
        raise self._error(refused, operation)

    @asynccontextmanager
    async def _sent(
        self, method: str, path: str, headers: dict[str, str], options: Mapping[str, Any]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        await self._limit.wait()
        headers |= await self._credentials.headers()
        if self._closed:
            raise StoreUnavailable("the store is closed", where=self.server)
        if self._session is None:
            self._session = _session()
        url = self._base.join(URL(self._base.path.rstrip("/") + path))
        try:
            response = await self._session.request(
                method,
                url,
                headers=headers,
                ssl=self._credentials.tls(),
                server_hostname=self._server_name,
                proxy=self._proxy,
                allow_redirects=False,
                **options,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        async with response:
            yield response

    def _unreachable(self, error: Exception) -> StoreUnavailable:
        hint = None
        if self._closed:
            return StoreUnavailable("the store is closed", where=self.server)
        if isinstance(error, TimeoutError):
            what = "no answer in time"
        elif isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError | aiohttp.ClientSSLError):
            what, hint = f"TLS: {cause(error)}", "compare the kubeconfig's certificates and the server's"
        else:
            what = f"cannot be reached: {cause(error)}"
        if self._proxy is not None:
            hint = f"the proxy is {urlsplit(self._proxy).hostname}"
        return StoreUnavailable(what, where=self.server, hint=hint)

    def _error(self, refused: ApiRefusal, operation: Operation) -> Exception:
        match refused.code:
            case 401:
                hint = "renew the token or certificate of the kubeconfig"
                return StoreUnavailable("the credentials are not accepted", where=self.server, hint=hint)
            case 403:
                return self._forbidden(refused, operation)
            case 400 | 413 | 422:
                return BadManifest(refused.message, where=self.server)
            case 429:
                return StoreUnavailable("too many requests", where=self.server)
            case code if code >= 500:
                return StoreUnavailable(f"error {code}: {refused.message}", where=self.server)
        return refused

    def _forbidden(self, refused: ApiRefusal, operation: Operation) -> StoreUnavailable:
        user = _USER.match(refused.message)
        if user is None:  # an admission plugin, or a namespace that is being deleted
            return StoreUnavailable(f"{operation.rule} is refused: {refused.message}", where=self.server)
        return StoreUnavailable(
            f"user {user[1]} may not {operation.verb} {operation.resource}",
            where=self.server,
            hint=f"give its role the {operation.rule}",
        )


def _session() -> aiohttp.ClientSession:
    """Answers are not compressed: that costs the server more time than the network saves."""
    return aiohttp.ClientSession(
        connector=Connector(limit=0),
        headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "percale"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds; None when the server does not ask for another attempt."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


async def _refusal(response: aiohttp.ClientResponse) -> ApiRefusal:
    """Proxies and a starting server answer with any text."""
    try:
        body = await response.read()
    except (aiohttp.ClientError, OSError):
        body = b""
    try:
        status = decode_json(_STATUS, body)
    except msgspec.MsgspecError:
        status = _Status()
    text = " ".join(body.decode(errors="replace").split()) or response.reason or ""
    return ApiRefusal(response.status, status.reason, status.message or text)
