"""A small API server in the test's own process: enough of Kubernetes' API for the store, and every way to fail.

It passes the same contract tests as a real kube-apiserver (`make test-cluster`). Objects are plain JSON documents; nothing is
validated or defaulted.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from percale.model.kinds import KINDS
from percale.store.kubernetes.resources import collection_path

Document = dict[str, Any]
Fault = Callable[["Request"], web.StreamResponse | None]
"""Answers instead of the server, or lets it answer (None)."""

_PATH = re.compile(
    r"(?P<root>/api/v1|/apis/[^/]+/[^/]+)(/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(/(?P<name>[^/]+))?(/(?P<sub>status))?"
)
_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
_USER = "tester"


@dataclass
class Request:
    """One request, taken apart."""

    verb: str
    root: str
    plural: str
    namespace: str | None
    name: str | None
    sub: str | None
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def resource(self) -> str:
        return f"{self.root}/{self.plural}"

    @property
    def rule(self) -> tuple[str, str]:
        return self.verb, f"{self.plural}/{self.sub}" if self.sub else self.plural


@dataclass
class Change:
    version: int
    resource: str
    type: str
    object: Document


@dataclass
class FakeApiServer:
    """Serve with `running`; then change what it does."""

    tokens: set[str] = field(default_factory=lambda: {"secret"})
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Verb and resource: `("list", "pods")`."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    resources: set[str] = field(default_factory=lambda: {collection_path(kind) for kind in KINDS.values()})
    bookmark_every: float = 60.0
    url: str = ""
    _objects: dict[str, dict[tuple[str, str], Document]] = field(default_factory=dict)
    _history: list[Change] = field(default_factory=list)
    _version: int = 1000
    _oldest: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _watches: set[asyncio.Task[None]] = field(default_factory=set)
    cut_after: int | None = None
    """Bytes of each watch until its connection is cut."""

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[FakeApiServer]:
        """On a loopback address; that of the last time with `port`."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True)
        await site.start()
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"{'https' if tls is not None else 'http'}://127.0.0.1:{self.port}"
        for namespace in ("default", "kube-system"):
            if ("", namespace) not in self._objects.get("/api/v1/namespaces", {}):
                self.write("/api/v1/namespaces", {"metadata": {"name": namespace}})
        try:
            yield self
        finally:
            self.cut()
            await runner.cleanup()

    # For tests

    def cut(self) -> None:
        """Cut all watches."""
        for each in list(self._watches):
            each.cancel()

    def compact(self) -> None:
        """Forget the history: an older version is Expired."""
        self._oldest = self._version
        self._history.clear()

    def write(self, resource: str, obj: Document) -> Document:
        """Create or replace an object, as another client would."""
        metadata = obj["metadata"]
        return self._store(resource, (metadata.get("namespace", ""), metadata["name"]), deepcopy(obj))

    def remove(self, resource: str, name: str, namespace: str = "") -> None:
        """Delete one."""
        self._delete(resource, (namespace, name))

    def read(self, resource: str, name: str, namespace: str = "") -> Document | None:
        """One object as it is."""
        return self._objects.get(resource, {}).get((namespace, name))

    def restore(self, objects: dict[str, dict[tuple[str, str], Document]], version: int) -> None:
        """A backup: everything as it was then, the version too."""
        self._objects, self._version, self._oldest = deepcopy(objects), version, version
        self._history.clear()

    def backup(self) -> tuple[dict[str, dict[tuple[str, str], Document]], int]:
        """For `restore`."""
        return deepcopy(self._objects), self._version

    def asked(self, verb: str, plural: str) -> int:
        """How many requests there were."""
        return sum(each.verb == verb and each.plural == plural for each in self.requests)

    # Requests

    async def _handle(self, given: web.Request) -> web.StreamResponse:
        request = _parsed(given)
        if request is None:
            return _status(404, "NotFound", "the server could not find the requested resource")
        self.requests.append(request)
        for fault in list(self.faults):
            if (answer := fault(request)) is not None:
                return answer
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _status(401, "Unauthorized", "Unauthorized")
        if request.rule in self.forbidden:
            verb, resource = request.rule
            said = f'{resource} is forbidden: User "{_USER}" cannot {verb} resource "{request.plural}" in API group ""'
            return _status(403, "Forbidden", said)
        if request.resource not in self.resources:
            return web.Response(status=404, text="404 page not found\n")
        body = await given.json() if given.can_read_body else {}
        match request.verb:
            case "watch":
                return await self._watch(given, request)
            case "list":
                return self._list(request)
            case "get":
                found = self.read(request.resource, request.name or "", request.namespace or "")
                return _answer(found) if found is not None else _missing(request)
            case "create":
                return self._create(request, body)
            case "patch":
                return self._patch(request, body)
        return self._delete_request(request, body)

    def _list(self, request: Request) -> web.Response:
        found = sorted(self._objects.get(request.resource, {}).items(), key=lambda item: "/".join(item[0]))
        objects = [obj for (namespace, _), obj in found if request.namespace in (None, namespace)]
        version, start = str(self._version), 0
        if token := request.query.get("continue"):
            version, _, position = token.partition(":")
            start = int(position)
            if int(version) < self._oldest:
                return _status(410, "Expired", "The provided continue parameter is too old")
        end = start + int(request.query.get("limit", len(objects) or 1))
        metadata = {"resourceVersion": version}
        if end < len(objects):
            metadata["continue"] = f"{version}:{end}"
        return _answer({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": objects[start:end]})

    async def _watch(self, given: web.Request, request: Request) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        if version < self._oldest:
            return _status(410, "Expired", f"too old resource version: {version}")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(given)
        task = asyncio.create_task(self._stream(response, request, version))
        self._watches.add(task)
        try:
            await asyncio.wait_for(asyncio.shield(task), float(request.query["timeoutSeconds"]))
        except TimeoutError:
            task.cancel()
        except asyncio.CancelledError:
            task.cancel()
            if given.transport is not None:
                given.transport.abort()
            raise
        finally:
            self._watches.discard(task)
        return response

    async def _stream(self, response: web.StreamResponse, request: Request, version: int) -> None:
        sent = 0
        while True:
            for change in self._after(version, request):
                version = change.version
                line = json.dumps({"type": change.type, "object": change.object}).encode() + b"\n"
                if self.cut_after is not None and sent + len(line) > self.cut_after:
                    await response.write(line[: self.cut_after - sent])
                    raise asyncio.CancelledError
                sent += len(line)
                await response.write(line)
            if version < self._oldest:
                status = {"kind": "Status", "code": 410, "reason": "Expired"}
                await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
                return
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), self.bookmark_every)
            except TimeoutError:
                if any(self._after(version, request)):
                    continue  # a change of this very moment
                version = self._version
                bookmark = {"kind": "Object", "metadata": {"resourceVersion": str(version)}}
                await response.write(json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n")

    def _after(self, version: int, request: Request) -> Iterator[Change]:
        yield from [each for each in self._history if each.version > version and each.resource == request.resource]

    def _create(self, request: Request, body: Document) -> web.Response:
        key = (request.namespace or "", body["metadata"]["name"])
        if request.namespace is not None and self.read("/api/v1/namespaces", request.namespace) is None:
            return _status(404, "NotFound", f'namespaces "{request.namespace}" not found')
        if key in self._objects.get(request.resource, {}):
            return _status(409, "AlreadyExists", f'{request.plural} "{key[1]}" already exists')
        if _has_status(request):
            body.pop("status", None)
        metadata = {**body["metadata"], "uid": f"uid-{self._version}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        return _answer(self._store(request.resource, key, {**body, "metadata": metadata}), 201)

    def _patch(self, request: Request, body: Document) -> web.Response:
        key = (request.namespace or "", request.name or "")
        current = self._objects.get(request.resource, {}).get(key)
        if current is None:
            return _missing(request)
        wanted = body.get("metadata", {}).pop("resourceVersion", None)
        if wanted not in (None, current["metadata"]["resourceVersion"]):
            return _conflict(request)
        if request.sub is None and _has_status(request):
            body.pop("status", None)
        merged = _merged(current, body)
        return _answer(current if merged == current else self._store(request.resource, key, merged))

    def _delete_request(self, request: Request, body: Document) -> web.Response:
        key = (request.namespace or "", request.name or "")
        current = self._objects.get(request.resource, {}).get(key)
        if current is None:
            return _missing(request)
        wanted = body.get("preconditions", {}).get("resourceVersion")
        if wanted not in (None, current["metadata"]["resourceVersion"]):
            return _conflict(request)
        self._delete(request.resource, key)
        return _answer({"kind": "Status", "status": "Success"})

    # State

    def _store(self, resource: str, key: tuple[str, str], obj: Document) -> Document:
        self._version += 1
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(self._version)}
        objects = self._objects.setdefault(resource, {})
        self._record(resource, "MODIFIED" if key in objects else "ADDED", obj)
        objects[key] = obj
        return obj

    def _delete(self, resource: str, key: tuple[str, str]) -> None:
        self._version += 1
        gone = deepcopy(self._objects[resource].pop(key))
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._record(resource, "DELETED", gone)

    def _record(self, resource: str, what: str, obj: Document) -> None:
        self._history.append(Change(self._version, resource, what, obj))
        self._changed.set()
        self._changed = asyncio.Event()


def _parsed(given: web.Request) -> Request | None:
    match = _PATH.fullmatch(given.path)
    if match is None:
        return None
    parts = match.groupdict()
    read = "get" if parts["name"] else "watch" if given.query.get("watch") == "true" else "list"
    verb = _VERBS.get(given.method, read)
    return Request(verb=verb, query=dict(given.query), headers=dict(given.headers), **parts)


def _has_status(request: Request) -> bool:
    return request.plural in ("nodes", "pods", "services")


def _merged(current: Any, patch: Any) -> Any:
    """RFC 7386. The store sends no lists in a strategic merge patch."""
    if not isinstance(patch, dict) or not isinstance(current, dict):
        return _without_nulls(patch)
    merged = {key: value for key, value in current.items() if key not in patch}
    merged |= {key: _merged(current.get(key), value) for key, value in patch.items() if value is not None}
    return merged


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _answer(document: Document, status: int = 200) -> web.Response:
    return web.json_response(document, status=status)


def _status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    document = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return web.json_response(document, status=code, headers=headers)


def _missing(request: Request) -> web.Response:
    return _status(404, "NotFound", f'{request.plural} "{request.name}" not found')


def _conflict(request: Request) -> web.Response:
    said = "the object has been modified; please apply your changes to the latest version and try again"
    return _status(409, "Conflict", f'Operation cannot be fulfilled on {request.plural} "{request.name}": {said}')


def refuse(verb: str, plural: str, code: int, *, times: int = 1, **headers: str) -> Fault:
    """So many requests are answered with this code."""
    left = [times]

    def fault(request: Request) -> web.StreamResponse | None:
        if (request.verb, request.plural) != (verb, plural) or left[0] == 0:
            return None
        left[0] -= 1
        return _status(code, "Failure", "as asked", {name.replace("_", "-"): text for name, text in headers.items()})

    return fault
