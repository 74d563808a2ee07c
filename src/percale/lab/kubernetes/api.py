"""Requests of kubelets and kubectl that no store makes: status, deletion with a grace period. Used by `control_plane`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from percale.errors import Conflict, LabError, NotFound, PercaleError, StoreUnavailable
from percale.model.meta import Object
from percale.store.decode import decode_object
from percale.store.kubernetes.api_client import STRATEGIC_MERGE_PATCH, ApiClient, ApiRefusal
from percale.store.kubernetes.kubeconfig import from_kubeconfig
from percale.store.kubernetes.resources import Operation, collection_path, object_path, operation

T = TypeVar("T", bound=Object)


class _Version(Struct, frozen=True):
    gitVersion: str


class KubernetesApi:
    """For one event loop. All methods raise PercaleError."""

    def __init__(self, kubeconfig: Path) -> None:
        self._client = ApiClient(from_kubeconfig(kubeconfig), {})  # without a proxy: the server is in the lab

    async def is_ready(self) -> bool:
        """Whether the server answers, and is ready."""
        try:
            await self._client.get("/readyz", Operation("get", "/readyz"))
        except (ApiRefusal, PercaleError):
            return False
        return True

    async def version(self) -> str:
        """As `v1.36.3`."""
        answer = await self._client.get("/version", Operation("get", "/version"))
        return msgspec.json.decode(answer, type=_Version).gitVersion

    async def create(self, path: str, resource: str, document: dict[str, Any]) -> None:
        """One that exists already stays."""
        try:
            await self._client.create(path, Operation("create", resource), document)
        except ApiRefusal as error:
            if error.reason != "AlreadyExists":
                raise _translated(error, resource) from error

    async def create_node(self, document: dict[str, Any], kind: type[Object]) -> None:
        """A Node that exists already stays."""
        await self.create(collection_path(kind), kind.PLURAL, document)

    async def patch_status(self, obj: T, status: dict[str, Any]) -> T:
        """Merge into the status of an object; with a uid, of no other of the same name. Raises NotFound, Conflict."""
        kind = type(obj)
        uid = obj.metadata.uid
        body = {"status": status} if uid is None else {"metadata": {"uid": uid}, "status": status}
        path = object_path(kind, obj.key, "status")
        try:
            data = await self._client.patch(path, operation("patch", kind, "status"), body, STRATEGIC_MERGE_PATCH)
        except ApiRefusal as error:
            raise _translated(error, f"{kind.KIND} {obj.key}") from error
        return decode_object(data, kind)

    async def delete(self, obj: Object, grace: int | None = None) -> None:
        """With what depends on it; `grace` in seconds instead of the object's own. One that is gone is fine."""
        kind = type(obj)
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        if obj.metadata.uid is not None:
            options["preconditions"] = {"uid": obj.metadata.uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            await self._client.delete(object_path(kind, obj.key), operation("delete", kind), options)
        except ApiRefusal as error:
            if error.code not in (404, 409):  # 409: another one of the same name
                raise _translated(error, f"{kind.KIND} {obj.key}") from error

    async def close(self) -> None:
        """End all requests."""
        await self._client.close()


def _translated(error: ApiRefusal, what: str) -> PercaleError:
    match error.code:
        case 404 if not error.reason:
            return LabError(
                f"the API server does not know the kind of {what}", hint="apply its CustomResourceDefinition"
            )
        case 404:
            return NotFound(error.message or what)
        case 409:
            return Conflict(f"{what}: {error.message}")
    return StoreUnavailable(f"{what}: {error.message}")
