"""A large cluster as an API server tells it: lists in pages, objects with all the fields that nobody here reads.

Written to files, so that the process that is measured does not hold it; `python -m bench.api_world DIRECTORY` serves it.
`registry` is the same as an API server keeps it in etcd.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from bench import service_world
from percale.model.manifest.encode import to_plain
from percale.store.kubernetes.list_pages import PAGE

NODE = "me"
ADDRESS = "172.31.255.1"
"""The node's."""
SUBNET = "10.244.1.0/24"
_MANAGER = {
    "manager": "kube-controller-manager",
    "operation": "Update",
    "apiVersion": "v1",
    "time": "2026-01-01T00:00:00Z",
    "fieldsType": "FieldsV1",
    "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {f"f:field{n}": {} for n in range(20)}},
}


def write(directory: Path, count: int, endpoints: int) -> None:
    """So many pods, Services and slices; one Node, this one."""
    _pages(directory / "pods", map(_pod, range(count)))
    _pages(directory / "services", map(_service, range(count)))
    _pages(directory / "endpointslices", (_slice(number, endpoints) for number in range(count)))
    _pages(directory / "nodes", [node()])


def registry(count: int, endpoints: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key and object; Services with the IPAddress objects of their allocation, or the API server would make them."""
    yield f"minions/{NODE}", {"apiVersion": "v1", "kind": "Node", **_stored(node(), count)}
    namespaces: set[str] = set()
    for number in range(count):
        pod, service = {"apiVersion": "v1", "kind": "Pod", **_pod(number)}, _service(number)
        for directory, obj in (
            ("pods", pod),
            ("services/specs", service),
            ("endpointslices", _slice(number, endpoints)),
        ):
            meta = obj["metadata"]
            if meta["namespace"] not in namespaces:
                namespaces.add(meta["namespace"])
                yield namespace(meta["namespace"])
            yield f"{directory}/{meta['namespace']}/{meta['name']}", obj
        address, meta = service["spec"]["clusterIP"], service["metadata"]
        parent = {"group": "", "resource": "services", "namespace": meta["namespace"], "name": meta["name"]}
        labels = {
            "ipaddress.kubernetes.io/ip-family": "IPv4",
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        }
        yield (
            f"ipaddresses/{address}",
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "IPAddress",
                "metadata": {"name": address, "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"parentRef": parent},
            },
        )


def namespace(name: str) -> tuple[str, dict[str, Any]]:
    """Key and object, as in `registry`."""
    meta = {"name": name, "uid": name, "labels": {"kubernetes.io/metadata.name": name}}
    return f"namespaces/{name}", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def node() -> dict[str, Any]:
    """Registered, its subnet assigned."""
    return {
        "metadata": {"name": NODE, "resourceVersion": "1", "annotations": {}},
        "spec": {"podCIDR": SUBNET, "podCIDRs": [SUBNET]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": ADDRESS}],
        },
    }


def page(directory: Path, resource: str, token: str) -> bytes:
    """A part of a list; an empty one of kinds that are not there."""
    path = directory / resource / f"{token or 0}.json"
    return path.read_bytes() if path.exists() else b'{"metadata":{"resourceVersion":"1000000"},"items":[]}'


def _pages(directory: Path, objects: Iterable[dict[str, Any]]) -> None:
    directory.mkdir(parents=True)
    items = [json.dumps(each) for each in objects]
    for number, start in enumerate(range(0, len(items), PAGE)):
        meta = {"resourceVersion": "1000000"}
        if start + PAGE < len(items):
            meta["continue"] = str(number + 1)
        body = f'{{"kind":"List","metadata":{json.dumps(meta)},"items":[{",".join(items[start : start + PAGE])}]}}'
        (directory / f"{number}.json").write_text(body)


def _stored(plain: dict[str, Any], number: int) -> dict[str, Any]:
    plain["metadata"] |= {
        "uid": f"00000000-0000-4000-8000-{number:012d}",
        "resourceVersion": str(number + 1),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [_MANAGER],
    }
    return json.loads(json.dumps(plain, default=str))  # type: ignore[no-any-return]


def _service(number: int) -> dict[str, Any]:
    return _stored(to_plain(service_world.service(number)), number)


def _slice(number: int, endpoints: int) -> dict[str, Any]:
    numbers = range(number * endpoints, (number + 1) * endpoints)
    return _stored(to_plain(service_world.endpoint_slice(number, list(numbers))), number)


def _pod(number: int) -> dict[str, Any]:
    app = f"app{number % 500}"
    mount = {"name": "kube-api-access", "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    container = {
        "name": "main",
        "image": "registry.example.org/team/app:1.2.3",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": f"SETTING_{n}", "value": f"value-{n}"} for n in range(10)],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "volumeMounts": [mount],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10},
    }
    conditions = [
        {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    plain = {
        "metadata": {
            "name": f"{app}-7d4b9c6f5-{number:05d}",
            "namespace": f"team{number % 50}",
            "labels": {"app": app, "tier": "backend", "pod-template-hash": "7d4b9c6f5"},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"{app}-7d4b9c6f5",
                    "uid": "x",
                    "controller": True,
                }
            ],
        },
        "spec": {
            "nodeName": f"node{number % 100}",
            "containers": [container],
            "serviceAccountName": "default",
            "tolerations": [
                {"key": f"node.kubernetes.io/{w}", "operator": "Exists"} for w in ("not-ready", "unreachable")
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": f"10.{number >> 14}.{number >> 7 & 127}.{number & 127}",
            "podIPs": [{"ip": f"10.{number >> 14}.{number >> 7 & 127}.{number & 127}"}],
            "conditions": conditions,
            "containerStatuses": [{"name": "main", "ready": True, "restartCount": 0, "imageID": "sha256:" + "0" * 64}],
        },
    }
    return _stored(plain, number)


async def _serve(directory: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        if request.query.get("watch"):
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.Event().wait()
        if request.method == "PATCH":
            changed = node()
            changed["metadata"]["annotations"] = (await request.json())["metadata"].get("annotations", {})
            return web.json_response(changed)
        if parts[-2:] == ["nodes", NODE]:
            return web.json_response(node())
        return web.Response(body=page(directory, parts[-1], request.query.get("continue", "")))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 8001).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
