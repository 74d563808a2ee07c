"""Speaks to an etcd cluster by its JSON gateway: one member at a time, the next one when it does not answer."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import getproxies

import msgspec

from percale.bounded_file import read_file
from percale.errors import BadConfig, StoreUnavailable
from percale.store.etcd.address import Address
from percale.store.etcd.messages import Authenticated, Body, Failure, RangeResponse, WatchLine, WatchResponse, watch
from percale.store.http_connector import Connector
from percale.store.http_errors import cause
from percale.store.http_library import aiohttp
from percale.store.http_lines import HalfLine, whole_lines
from percale.store.tls_context import TlsContext

R = TypeVar("R")

_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=3.0)
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=3.0, sock_read=60.0)
"""A connection that died silently looks like one without changes, so a silent watch is opened again."""
_NAMELESS = "with a user, cert must be a certificate without a common name (CN)"
_UNAUTHENTICATED, _PERMISSION_DENIED, _UNAVAILABLE = 16, 7, 14


class _NotAnswered(Exception):
    """This member does not answer; `sent`: it may have done what was asked."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class EtcdClient:
    """For one event loop; the session is made at the first request."""

    def __init__(self, address: Address) -> None:
        """Raises BadConfig."""
        self._address = address
        self._endpoints = list(address.endpoints)
        """The one that answered last comes first."""
        self._tls = TlsContext()
        try:
            self._tls_of_files()
        except StoreUnavailable as error:
            raise BadConfig(error.what, where=f"store: {error.where}") from error
        self._session: aiohttp.ClientSession | None = None
        self._token: str | None = None

    async def call(self, path: str, body: Body, answer: type[R], *, repeatable: bool = False) -> R:
        """One request. `repeatable`: doing it twice is doing it once. Raises StoreUnavailable."""
        reasons: dict[str, str] = {}
        # The first one once more: it may have closed the connection just when it was to be used again.
        for endpoint in (*self._endpoints, self._endpoints[0]):
            try:
                content = await self._post(endpoint, path, body)
            except _NotAnswered as error:
                self._endpoints.append(self._endpoints.pop(self._endpoints.index(endpoint)))
                reasons[endpoint] = str(error)
                if error.sent and not repeatable:
                    break
                continue
            return _decoded(content, answer, endpoint)
        where = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in reasons.items())
        raise StoreUnavailable("etcd does not answer", where=where)

    async def watch(self, prefix: bytes, revision: int) -> AsyncGenerator[WatchResponse, None]:
        """What happens to keys with this prefix from a revision on, until the connection ends. Raises StoreUnavailable."""
        now = await self.call("kv/range", {"key": prefix, "limit": 1}, RangeResponse, repeatable=True)
        endpoint = self._endpoints[0]  # the one that answered
        if (
            now.header.revision < revision - 1
        ):  # restored from a backup: what has happened since is not known, as if compacted
            yield WatchResponse(compact_revision=revision)
            return
        body = _encoded(watch(prefix, revision))
        try:
            async with self._made_session().post(
                f"{endpoint}/v3/watch",
                data=body,
                headers=self._headers,
                timeout=_WATCH_TIMEOUT,
                ssl=self._tls_of_files(),
            ) as response:
                async for line in whole_lines(response.content.iter_any()):
                    found = _decoded(line, WatchLine, endpoint)
                    if found.result is None:
                        return
                    yield found.result
        except (aiohttp.ClientError, OSError, HalfLine):  # a timeout is an OSError
            return

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    # One request

    async def _post(self, endpoint: str, path: str, body: Body) -> bytes:
        """The answer's content. Raises _NotAnswered, StoreUnavailable."""
        for fresh in (False, True):
            if self._address.user is not None and (self._token is None or fresh):
                self._token = await self._authenticate(endpoint)
            status, content = await self._send(endpoint, path, body, self._headers)
            if status == 200:
                return content
            failure = _failure(content)
            if failure.code == _UNAUTHENTICATED and self._address.user is not None and not fresh:
                continue
            if failure.code == _UNAVAILABLE or not failure.code:
                raise _NotAnswered(failure.message or f"HTTP {status}", sent=True)
            hint = "give the user a role for this prefix" if failure.code == _PERMISSION_DENIED else None
            raise StoreUnavailable(failure.message, where=endpoint, hint=hint)
        raise AssertionError

    async def _authenticate(self, endpoint: str) -> str:
        assert self._address.user is not None
        assert self._address.password_file is not None
        login = {"name": self._address.user, "password": _read_secret(self._address.password_file)}
        status, content = await self._send(endpoint, "auth/authenticate", login, {})
        if status != 200:
            message = _failure(content).message or f"HTTP {status}"
            # etcd refuses to take two names for one client, and says it of the gateway
            hint = _NAMELESS if "CommonName" in message else "see user and password-file"
            raise StoreUnavailable(message, where=endpoint, hint=hint)
        return _decoded(content, Authenticated, endpoint).token

    async def _send(self, endpoint: str, path: str, body: Body, headers: dict[str, str]) -> tuple[int, bytes]:
        session, tls = self._made_session(), self._tls_of_files()
        try:
            async with session.post(
                f"{endpoint}/v3/{path}", data=_encoded(body), headers=headers, timeout=_TIMEOUT, ssl=tls
            ) as response:
                return response.status, await response.read()
        except aiohttp.ClientConnectorError as error:
            raise _NotAnswered(_reason(error), sent=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _NotAnswered(_reason(error), sent=True) from error

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token is not None else {}

    def _tls_of_files(self) -> ssl.SSLContext | bool:
        """Certificates that were replaced count for the next request. Raises StoreUnavailable."""
        address = self._address
        if not any(each.startswith("https:") for each in (*self._endpoints, *getproxies().values())):
            return True
        return self._tls.of(address.ca, address.cert, address.key)

    def _made_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=Connector(), trust_env=True)
        return self._session


def _read_secret(path: Path) -> str:
    try:
        return read_file(path).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"the password cannot be read: {error}", where=str(path)) from error


def _encoded(body: Any) -> bytes:
    return msgspec.json.encode(body)


def _decoded(content: bytes, kind: type[R], where: str) -> R:
    try:
        return msgspec.json.decode(content, type=kind, strict=False)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreUnavailable(f"this is not etcd's answer: {error}", where=where, hint="etcd 3.4 or newer") from error


def _failure(content: bytes) -> Failure:
    try:
        return msgspec.json.decode(content, type=Failure, strict=False)
    except (msgspec.DecodeError, RecursionError):
        first = content.decode(errors="replace").strip().partition("\n")[0]
        return Failure(message="" if first.startswith("<") else first)


def _reason(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else cause(error)
