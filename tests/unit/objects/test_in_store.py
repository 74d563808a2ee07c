"""Objects of any store: what `apply` and `delete` write, what `get` reads; the same over memory, files and a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar

import pytest
from tests.cluster.api_server import write_kubeconfig
from tests.etcd_server import EtcdServer
from tests.fake_api_server import FakeApiServer

from percale.errors import BadManifest, Conflict, NotFound, PercaleError, StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.manifest.files import Files
from percale.model.meta import Object, ObjectKey
from percale.model.namespace import Namespace
from percale.model.networkpolicy import NetworkPolicy
from percale.model.service import Service
from percale.objects import changes
from percale.objects.in_store import StoreObjects, StoreReader, load
from percale.objects.selection import Scope, Wanted, wanted_kinds
from percale.store.memory import MemoryStore
from percale.store.protocol import Store
from percale.store.registry import open_store

T = TypeVar("T", bound=Object)

CIDRS = (ip_network("10.96.0.0/24"),)
PERMANENT = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n"
SHOP = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {a: b}}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}}
"""
SERVICE, POLICY = ObjectKey("shop", "web"), ObjectKey("shop", "web")


@pytest.fixture(params=["memory", "files", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    match request.param:
        case "memory":
            opened: Store = MemoryStore()
        case "files":
            opened = open_store(f"files:{tmp_path}")
        case _:
            opened = open_store(f"etcd:{request.getfixturevalue('etcd').url}?prefix=/{request.node.name}")
    yield opened
    await opened.close()


async def applied(store: Store, text: str, *, api_server: bool = False) -> list[str]:
    loaded = load(Files([("a.yaml", text)], [], ["a.yaml"]), None, "strict")
    return [line async for line in StoreObjects(store, api_server=api_server).apply(loaded, CIDRS)]


async def shown(store: Store, *kinds: str, scope: Scope | None = None, wide: bool = False) -> list[list[str]]:
    """The rows of all sections."""
    wanted = wanted_kinds([Wanted(kind) for kind in kinds])
    reader = StoreReader(store, wanted, scope or Scope(everywhere=True), wide=wide, note=pytest.fail)
    return [row for section in (await reader.get())["sections"] for row in section["rows"]]


async def test_apply_creates_changes_and_leaves_alone(store: Store) -> None:
    created = ["namespace/shop created", "service/web created", "networkpolicy.networking.k8s.io/web created"]
    assert await applied(store, SHOP) == created
    service = await store.get(Service, SERVICE)
    assert service is not None
    assert service.spec.clusterIP == "10.96.0.17", "allocated as an API server does"
    assert service.metadata.uid
    assert service.metadata.creationTimestamp
    assert await applied(store, SHOP) == ["service/web unchanged", "networkpolicy.networking.k8s.io/web unchanged"]
    changed = await applied(store, SHOP.replace("port: 80", "port: 81").replace("{a: b}", "{a: c}"))
    assert changed[0] == "service/web configured"
    after = await store.get(Service, SERVICE)
    assert after is not None
    assert (after.spec.ports[0].port, after.metadata.labels) == (81, {"a": "c"})
    assert after.metadata.uid == service.metadata.uid
    assert after.spec.clusterIP == service.spec.clusterIP, "it keeps its address"


async def test_two_services_never_get_one_address(store: Store) -> None:
    await applied(store, SHOP)
    await applied(store, SHOP.replace("name: web", "name: two"))
    addresses = {service.spec.clusterIP for service in await store.list(Service)}
    assert len(addresses) == 2


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (SHOP.replace("port: 80", "port: 80, nodePort: 1"), r"a.yaml:1: Service shop/web: spec.ports\[0\].nodePort: "),
        (SHOP.replace("podSelector", "podselector"), "a.yaml:9: spec.podselector: unknown field"),
        (SHOP + "---\n" + SHOP, "a.yaml:11: Service shop/web is in this file twice"),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: Web}}", "metadata.name: 'Web' is not a name"),
        ('{"Network": "10.0.0.0/8"}', "a network configuration is no object; percale etcd init"),
    ],
)
async def test_one_bad_document_and_nothing_is_applied(store: Store, text: str, what: str) -> None:
    with pytest.raises(BadManifest, match=what):
        await applied(store, text)
    assert [await store.list(kind) for kind in (Namespace, Service, NetworkPolicy)] == [[], [], []]


async def test_delete_all_of_a_kind(store: Store) -> None:
    await applied(store, SHOP + PERMANENT)
    objects = StoreObjects(store, api_server=False)

    async def deleted(*kinds: str, scope: Scope) -> list[str]:
        found = await changes.choose(objects, wanted_kinds(list(map(Wanted, kinds))), scope)
        return [line async for line in changes.delete_chosen(objects, found)] or [found.nothing]

    assert await deleted("svc", "netpol", scope=Scope()) == [
        "no services, networkpolicies in namespace default; 2 elsewhere: -A shows all"
    ]
    assert await deleted("svc", scope=Scope("shop", selector="app=nosuch")) == ["no services in namespace shop"]
    assert await deleted("svc", "netpol", scope=Scope(everywhere=True)) == [
        "service/web deleted",
        "networkpolicy.networking.k8s.io/web deleted",
    ]
    assert await deleted("ns", scope=Scope()) == [
        "namespace/default stays: every cluster has it",
        "namespace/shop deleted",
    ]


class _Failing(MemoryStore):
    """Its third write fails."""

    def __init__(self, error: PercaleError) -> None:
        super().__init__()
        self._left = 2
        self._error = error

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        if not self._left:
            raise self._error
        self._left -= 1
        return await super().put(obj, expect=expect, ttl=ttl)


@pytest.mark.parametrize("error", [StoreUnavailable("it is away"), BadManifest("the server says no", where="there")])
async def test_a_store_that_fails_in_the_midst_says_how_far_it_came(error: PercaleError) -> None:
    store = _Failing(error)
    with pytest.raises(type(error), match="2 of 3 objects are applied; the same command goes on"):
        await applied(store, SHOP)
    store._left = 9
    assert (await applied(store, SHOP))[-1] == "networkpolicy.networking.k8s.io/web created"


async def test_another_writer_loses_nothing(store: Store) -> None:
    await applied(store, SHOP)
    objects = StoreObjects(store, api_server=False)
    stale = await store.get(NetworkPolicy, POLICY)
    assert stale is not None
    await applied(store, SHOP.replace("app: web", "app: other"))
    selectors = []

    def labeled(obj: Object) -> Object:
        assert isinstance(obj, NetworkPolicy)
        selectors.append(dict(obj.spec.podSelector.matchLabels))
        return changes.merged(obj, stale)

    assert await objects.change(stale, labeled) is False
    assert await objects.change(stale, changes.with_identity) is True
    with pytest.raises(Conflict, match="NetworkPolicy shop/web exists already"):
        await objects.create(stale)


async def test_delete_by_file_by_name_and_with_a_namespace(store: Store) -> None:
    await applied(store, SHOP)
    objects = StoreObjects(store, api_server=False)

    async def deleted(*names: tuple[str, str], namespace: str | None = None) -> list[str]:
        kinds = wanted_kinds([Wanted(kind, (name,)) for kind, name in names])
        found = await changes.choose(objects, kinds, Scope(namespace))
        return [line async for line in changes.delete_chosen(objects, found)]

    with pytest.raises(NotFound, match="there is no service web in namespace default; did you mean -n shop"):
        await deleted(("ns", "shop"), ("svc", "web"))
    with pytest.raises(NotFound, match="there is no service nosuch in namespace shop"):
        await deleted(("netpol", "web"), ("svc", "nosuch"), namespace="shop")
    assert await store.get(NetworkPolicy, POLICY) is not None, "all must exist, or none is deleted"
    assert await deleted(("svc", "web"), namespace="shop") == ["service/web deleted"]
    written: Sequence[Object] = [each.object for each in load(Files([("a", SHOP)], [], ["a"]), None, "ignore").entries]
    assert [line async for line in changes.delete_written(objects, written)] == [
        "networkpolicy.networking.k8s.io/web deleted",
        "service/web not there",
    ]
    await applied(store, SHOP)
    assert await deleted(("ns", "shop")) == ["namespace/shop deleted"]
    assert [await store.list(kind) for kind in (Namespace, Service, NetworkPolicy)] == [[], [], []]


async def test_get_shows_tables_and_what_is_elsewhere(store: Store) -> None:
    await applied(store, SHOP)
    rows = await shown(store, "svc", "netpol")
    assert [row[:2] for row in rows] == [["shop", "service/web"], ["shop", "networkpolicy.networking.k8s.io/web"]]
    reader = StoreReader(store, wanted_kinds([Wanted("svc", ("web",))]), Scope("shpo"), wide=False, note=pytest.fail)
    answer = await reader.get()
    assert answer["missing"] == ["there is no service web in namespace shpo; did you mean -n shop?"]
    reader = StoreReader(store, wanted_kinds([Wanted("svc")]), Scope("shpo"), wide=False, note=pytest.fail)
    assert (await reader.get())["nothing"] == (
        "no services in namespace shpo; 1 elsewhere: -A shows all; did you mean -n shop?"
    )


async def test_a_node_is_shown_with_its_subnet(store: Store) -> None:
    lease = """\
apiVersion: percale.io/v1alpha1
kind: SubnetLease
metadata: {name: 10.244.3.0-24}
spec: {node: n3, subnet: 10.244.3.0/24, publicIP: 192.0.2.3, backendType: vxlan}
---
{apiVersion: v1, kind: Node, metadata: {name: n3}}
"""
    await applied(store, lease)
    assert [row[4] for row in await shown(store, "node", wide=True)] == ["10.244.3.0/24"]


async def test_get_again_when_something_changes(store: Store) -> None:
    await applied(store, SHOP)
    reader = StoreReader(store, wanted_kinds([Wanted("netpol")]), Scope("shop"), wide=False, note=pytest.fail)
    first = await reader.get()
    assert (await reader.next())["sections"] == first["sections"]
    waiting = asyncio.create_task(reader.next())
    await applied(store, SHOP.replace("app: web", "app: other"))
    async with asyncio.timeout(30):
        assert (await waiting)["sections"][0]["rows"][0][1] == "app=other"
    await store.delete(NetworkPolicy, POLICY)
    async with asyncio.timeout(30):
        assert (await reader.next())["sections"] == []


async def test_what_cannot_be_read_is_told(tmp_path: Path, etcd: EtcdServer) -> None:
    (tmp_path / "a.yaml").write_text("kind: [")
    (tmp_path / "b.yaml").write_text("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")
    etcd.ctl("put", "/broken/percale/objects/Namespace/bad", "{")
    for address, name in ((f"files:{tmp_path}", "a.yaml:1"), (f"etcd:{etcd.url}?prefix=/broken", "Namespace/bad")):
        store = open_store(address)
        notes: list[str] = []
        reader = StoreReader(store, wanted_kinds([Wanted("ns")]), Scope(), wide=False, note=notes.append)
        await reader.get()
        assert len(notes) == 1, notes
        assert name in notes[0]
        await store.close()


# With an API server


@pytest.fixture
async def server(loopback: None) -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer().running() as running:
        yield running


@pytest.fixture
async def api(server: FakeApiServer, tmp_path: Path) -> AsyncIterator[Store]:
    store = open_store(f"kubernetes:{write_kubeconfig(tmp_path, server.url, 'secret')}")
    yield store
    await store.close()


async def test_an_api_server_gets_whole_objects_or_none(api: Store, server: FakeApiServer) -> None:
    deployment = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  strategy: {}
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      containers: [{name: c, image: i, env: [{name: A}], resources: {}}]
status: {}
"""
    with pytest.raises(BadManifest, match=r"a.yaml:10: spec.template.spec.containers\[0\].env: not a field that Perc"):
        await applied(api, deployment, api_server=True)
    assert not [each for each in server.requests if each.verb not in ("get", "list")]
    done = await applied(api, deployment.replace(", env: [{name: A}]", ""), api_server=True)
    assert done == ["deployment.apps/d created"]


async def test_what_others_write_stays(api: Store, server: FakeApiServer) -> None:
    text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, labels: {a: b}}, data: {x: '1'}}"
    await applied(api, text, api_server=True)
    known = await api.get(ConfigMap, ObjectKey("default", "c"))
    assert known is not None
    metadata = {"name": "c", "namespace": "default", "labels": {"a": "b", "o": "p"}, "annotations": {"q": "r"}}
    server.write("/api/v1/configmaps", {"metadata": metadata, "data": {"x": "1"}, "immutable": False})
    assert await applied(api, text, api_server=True) == ["configmap/c unchanged"]
    assert await applied(api, text.replace("'1'", "'2'"), api_server=True) == ["configmap/c configured"]
    after = await api.get(ConfigMap, ObjectKey("default", "c"))
    assert after is not None
    assert (after.metadata.labels, after.metadata.annotations) == ({"a": "b", "o": "p"}, {"q": "r"})


async def test_a_namespace_that_is_not_there_is_not_made_up_in_a_cluster(api: Store, server: FakeApiServer) -> None:
    with pytest.raises(NotFound, match="there is no namespace shop; nothing is applied; give its Namespace too"):
        await applied(api, SHOP, api_server=True)
    assert not [each for each in server.requests if each.verb not in ("get", "list")]
    namespace = "\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n"
    done = await applied(api, SHOP + namespace, api_server=True)
    assert done[0] == "namespace/shop created", "before what is in it"


async def test_rights_that_lack_and_a_server_that_is_away_are_one_error(api: Store, server: FakeApiServer) -> None:
    server.forbidden.add(("list", "networkpolicies"))
    with pytest.raises(StoreUnavailable, match="may not list networkpolicies"):
        await shown(api, "netpol")
    server.write("/api/v1/endpoints", {"metadata": {"name": "e", "namespace": "default"}, "subsets": []})
    assert [row[1] for row in await shown(api, "endpoints")] == ["e"]
    server.forbidden.add(("list", "namespaces"))
    assert await shown(api, "pods", scope=Scope()) == [], "namespaces are asked for a hint only"
