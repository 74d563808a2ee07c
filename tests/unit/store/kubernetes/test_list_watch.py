"""A watch that loses nothing, whatever the server and the network do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from msgspec.structs import replace
from tests.fake_api_server import FakeApiServer, Request, refuse
from tests.unit.store.conftest import upcoming
from tests.unit.store.kubernetes.conftest import CONFIG_MAPS, PODS, config_map
from tests.waiting import eventually

from percale.errors import NotFound
from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.configmap import ConfigMap
from percale.model.endpoints import EndpointSlice
from percale.model.meta import ObjectKey
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Pod
from percale.store.kubernetes import list_pages, list_watch
from percale.store.kubernetes.store import KubernetesStore
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Upserted

CNP = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"
POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
DEEP = b'{"metadata":{"name":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
NO_TEXT = b'{"metadata":{"name":"\xff"}}'
"""Not UTF-8."""
NOT_READABLE = [b'{"type":"ADDED","object":%s}\n' % each for each in (DEEP, NO_TEXT)]
NOT_A_LIST = [b'{"metadata":{},"items":[%s]}' % each for each in (DEEP, NO_TEXT)]
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


@pytest.fixture
async def events(server: FakeApiServer, store: KubernetesStore) -> AsyncIterator[AsyncIterator[Event]]:
    """Of a watch that knows the object `a`."""
    server.write(CONFIG_MAPS, config_map("a"))
    watch = store.watch(ConfigMap)
    snapshot = await upcoming(watch)
    assert isinstance(snapshot, Snapshot)
    assert [said(Upserted(each)) for each in snapshot.of(ConfigMap)] == ["put a=1"]
    yield watch


def said(event: Event) -> str:
    match event:
        case Upserted(ConfigMap() as obj):
            return f"put {obj.metadata.name}={obj.data['x']}"
        case Deleted(ConfigMap() as obj):
            return f"deleted {obj.metadata.name}={obj.data['x']}"
        case ReadProblem(source, error):
            return f"problem {source}: {error}" if error is not None else f"solved {source}"
    return type(event).__name__


async def watched(server: FakeApiServer, times: int) -> None:
    await eventually(lambda: server.asked("watch", "configmaps") >= times, f"{times} watches")


async def test_after_a_cut_the_differences_are_told(
    server: FakeApiServer, store: KubernetesStore, events: AsyncIterator[Event]
) -> None:
    server.write(CONFIG_MAPS, config_map("kept"))
    assert said(await upcoming(events)) == "put kept=1"
    await watched(server, 1)
    server.faults.append(refuse("watch", "configmaps", 500))
    server.cut()
    server.write(CONFIG_MAPS, config_map("a", "2"))
    server.remove(CONFIG_MAPS, "kept", "default")
    server.write(CONFIG_MAPS, config_map("new"))
    seen = [said(await upcoming(events)) for _ in range(3)]
    assert sorted(seen) == ["deleted kept=1", "put a=2", "put new=1"]


async def test_half_a_line_is_not_taken_and_nothing_is_lost(
    server: FakeApiServer, events: AsyncIterator[Event]
) -> None:
    server.cut_after = 500
    for number in range(20):
        server.write(CONFIG_MAPS, config_map("a", str(number)))
        await asyncio.sleep(0.01)
    server.cut_after = None
    seen: list[str] = []
    while not seen or seen[-1] != "put a=19":
        seen.append(said(await upcoming(events)))
    values = [int(each.rpartition("=")[2]) for each in seen]
    assert values == sorted(values)


async def test_a_version_that_is_too_old_is_listed_again(server: FakeApiServer, events: AsyncIterator[Event]) -> None:
    await watched(server, 1)
    server.compact()
    server.write(CONFIG_MAPS, config_map("b"))
    server.cut()
    assert said(await upcoming(events)) == "put b=1"


async def test_a_watch_that_cannot_go_on_says_so_in_the_stream(
    server: FakeApiServer, store: KubernetesStore, events: AsyncIterator[Event]
) -> None:
    await watched(server, 1)
    server.write(PODS, {"metadata": {"name": "p", "namespace": "default"}})  # the version goes on, unseen by the watch
    server.compact()
    server._changed.set()
    server._changed = asyncio.Event()
    await watched(server, 2)
    server.write(CONFIG_MAPS, config_map("b"))
    assert said(await upcoming(events)) == "put b=1"
    assert server.asked("list", "configmaps") >= 2


async def test_a_restored_backup_is_noticed(server: FakeApiServer, events: AsyncIterator[Event]) -> None:
    """The server's version goes back: a watch that went on from the last one would be silent."""
    backup = server.backup()
    server.write(CONFIG_MAPS, config_map("after"))
    assert said(await upcoming(events)) == "put after=1"
    server.restore(*backup)
    server.cut()
    assert said(await upcoming(events)) == "deleted after=1"
    server.write(CONFIG_MAPS, config_map("b"))
    assert said(await upcoming(events)) == "put b=1"


async def test_a_server_that_goes_and_comes_back_is_a_problem_meanwhile(
    server: FakeApiServer, store: KubernetesStore, events: AsyncIterator[Event]
) -> None:
    server.tokens.clear()
    server.cut()
    assert said(await upcoming(events)) == (
        f"problem configmaps: {server.url}: the credentials are not accepted; "
        "renew the token or certificate of the kubeconfig"
    )
    server.write(CONFIG_MAPS, config_map("b"))
    await asyncio.sleep(0.1)
    server.tokens.add("secret")
    seen = [said(await upcoming(events))]
    while seen[-1].startswith("problem"):
        seen.append(said(await upcoming(events)))
    assert [*seen[-1:], said(await upcoming(events))] == ["put b=1", "solved configmaps"]


async def test_a_right_that_is_missing_is_named(server: FakeApiServer, store: KubernetesStore) -> None:
    server.forbidden.add(("list", "pods"))
    events = store.watch(ConfigMap, Pod)
    assert said(await upcoming(events)) == (
        f"problem pods: {server.url}: user tester may not list pods; give its role the verb list on pods"
    )
    server.forbidden = {("watch", "pods")}
    while not isinstance(event := await upcoming(events), Snapshot):
        pass
    assert event.of(Pod) == []
    while "may not watch pods" not in said(event):
        event = await upcoming(events)
    assert server.asked("list", "configmaps") == 1


@pytest.mark.parametrize(
    "line", [b"null\n", b"{}\n", b'{"type":"ADDED","object":{}}\n', b"<html>\n", b"\xff\n", b"\n", *NOT_READABLE]
)
async def test_nonsense_in_the_stream_leads_to_another_list(
    server: FakeApiServer, events: AsyncIterator[Event], line: bytes
) -> None:
    def nonsense(request: Request) -> web.Response | None:
        if request.verb == "watch" and server.asked("watch", "configmaps") < 4:
            return web.Response(body=line)
        return None

    server.faults.append(nonsense)
    server.cut()
    await watched(server, 4)
    server.write(CONFIG_MAPS, config_map("b"))
    assert said(await upcoming(events)) == "put b=1"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b'{"metadata":{},"items":[1]}', b"<html>", b'{"items":', *NOT_A_LIST]
)
async def test_nonsense_instead_of_a_list_changes_nothing(
    server: FakeApiServer, events: AsyncIterator[Event], body: bytes
) -> None:
    def nonsense(request: Request) -> web.Response | None:
        return web.Response(body=body) if request.verb == "list" and server.asked("list", "configmaps") < 4 else None

    server.faults.append(nonsense)
    server.cut()
    assert "problem configmaps: http" in said(await upcoming(events))
    while (event := said(await upcoming(events))).startswith("problem"):
        pass
    assert event == "solved configmaps"


async def test_an_object_that_is_not_utf_8_is_named(server: FakeApiServer, events: AsyncIterator[Event]) -> None:
    def nonsense(request: Request) -> web.Response | None:
        if request.verb == "watch" and server.asked("watch", "configmaps") < 4:
            return web.Response(body=b'{"type":"ADDED","object":{"metadata":{"name":"b"},"data":{"x":"\xff"}}}\n')
        return None

    server.faults.append(nonsense)
    server.cut()
    assert said(await upcoming(events)).startswith("problem ConfigMap b: ")


async def test_a_busy_server_is_asked_again_when_it_says(server: FakeApiServer, store: KubernetesStore) -> None:
    server.faults.append(refuse("list", "configmaps", 429, times=2, Retry_After="0"))
    assert await store.list(ConfigMap) == []
    server.faults.append(refuse("list", "configmaps", 500))
    events = store.watch(ConfigMap)
    assert said(await upcoming(events)) == f"problem configmaps: {server.url}: error 500: as asked"
    assert said(await upcoming(events)) in ("Snapshot", "solved configmaps")


async def test_lists_come_in_pages(
    server: FakeApiServer, store: KubernetesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_pages, "PAGE", 3)
    for number in range(10):
        server.write(CONFIG_MAPS, config_map(f"c{number}"))
    assert len(await store.list(ConfigMap)) == 10
    assert server.asked("list", "configmaps") == 4
    server.faults.append(lambda request: _expired(server, request))
    events = store.watch(ConfigMap)
    snapshot = await upcoming(events)
    assert isinstance(snapshot, Snapshot)
    assert len(snapshot.of(ConfigMap)) == 10


def _expired(server: FakeApiServer, request: Request) -> None:
    """While the pages are read, the first time."""
    if request.verb == "list" and "continue" in request.query and server.asked("list", "configmaps") < 8:
        server.write(CONFIG_MAPS, config_map("c0", "2"))
        server.compact()


async def test_a_crd_that_is_installed_later_is_noticed(server: FakeApiServer, store: KubernetesStore) -> None:
    server.resources.discard(CNP)
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}
    policy = {"metadata": {"name": "p"}, "spec": spec}
    assert await store.list(ClusterNetworkPolicy) == []
    with pytest.raises(
        NotFound, match="the server has no clusternetworkpolicies; apply their CustomResourceDefinition"
    ):
        await store.put(msgspec.convert(policy, ClusterNetworkPolicy), expect="")
    events = store.watch(ClusterNetworkPolicy, ConfigMap)
    snapshot = await upcoming(events)
    assert isinstance(snapshot, Snapshot)
    assert snapshot.of(ClusterNetworkPolicy) == []
    server.resources.add(CNP)
    server.write(CNP, {"metadata": {"name": "p"}, "spec": spec})
    event = await upcoming(events)
    assert isinstance(event, Upserted)
    assert event.object.key == ObjectKey(None, "p")
    server.resources.discard(CNP)  # removed, with all objects
    server.cut()
    assert said(await upcoming(events)).endswith("the server has no clusternetworkpolicies any more")
    assert isinstance(await upcoming(events), Deleted)


async def test_a_server_without_pods_is_none(server: FakeApiServer, store: KubernetesStore) -> None:
    server.resources.discard(PODS)
    events = store.watch(Pod)
    assert "pods cannot be listed: 404" in said(await upcoming(events))


async def test_an_invalid_object_keeps_its_last_valid_state(
    server: FakeApiServer, events: AsyncIterator[Event], store: KubernetesStore
) -> None:
    server.write(CONFIG_MAPS, {**config_map("a"), "data": {"x": 1}})
    problem = "problem ConfigMap default/a: ConfigMap default/a: Expected `str`, got `int` - at `$.data[...]`"
    assert said(await upcoming(events)) == problem
    server.cut()
    server.write(CONFIG_MAPS, config_map("b"))
    seen = [said(await upcoming(events)) for _ in range(2)]
    assert seen == [problem, "put b=1"]
    server.write(CONFIG_MAPS, config_map("a", "2"))
    assert [said(await upcoming(events)) for _ in range(2)] == ["solved ConfigMap default/a", "put a=2"]


async def test_an_object_that_is_invalid_from_the_start(server: FakeApiServer, store: KubernetesStore) -> None:
    server.write(CONFIG_MAPS, {**config_map("bad"), "data": {"x": 1}})
    server.write(CONFIG_MAPS, config_map("good"))
    events = store.watch(ConfigMap)
    assert said(await upcoming(events)).startswith("problem ConfigMap default/bad")
    snapshot = await upcoming(events)
    assert isinstance(snapshot, Snapshot)
    assert len(snapshot.of(ConfigMap)) == 1
    server.cut()
    server.remove(CONFIG_MAPS, "bad", "default")
    solved = await upcoming(events)
    assert said(solved) == "solved ConfigMap default/bad"
    assert isinstance(solved, ReadProblem) and solved.about == (ConfigMap, ObjectKey("default", "bad"))


async def test_an_invalid_policy_isolates_until_it_is_valid(server: FakeApiServer, store: KubernetesStore) -> None:
    """An older server takes this network. Nobody else waits for it; a last valid state stays."""
    pods = {"matchLabels": {"app": "db"}}
    server.write(POLICIES, network_policy("010.0.0.0/8", pods))
    events = store.watch(NetworkPolicy, isolate=True)
    problem = await upcoming(events)
    assert isinstance(problem, ReadProblem) and problem.complete
    assert 'Invalid value: "010.0.0.0/8"' in str(problem.error)
    snapshot = await upcoming(events)
    assert isinstance(snapshot, Snapshot)
    assert isolation(*snapshot.of(NetworkPolicy)) == pods["matchLabels"]
    server.write(POLICIES, network_policy("010.0.0.0/8", {"matchLabels": {"app": "-"}}))  # whom it selects is unknown
    assert isinstance(await upcoming(events), ReadProblem)
    changed = await upcoming(events)
    assert isinstance(changed, Upserted) and isinstance(changed.object, NetworkPolicy)
    assert isolation(changed.object) == {}
    server.write(POLICIES, network_policy("10.0.0.0/8", pods))
    assert said(await upcoming(events)) == "solved NetworkPolicy default/p"
    valid = await upcoming(events)
    assert isinstance(valid, Upserted) and isinstance(valid.object, NetworkPolicy)
    assert valid.object.spec.ingress
    server.write(POLICIES, network_policy("10.0.0.0/08/", pods))
    assert isinstance(await upcoming(events), ReadProblem)
    server.cut()
    server.write(POLICIES, {**network_policy("10.1.0.0/16", pods), "metadata": {"name": "q", "namespace": "default"}})
    while not isinstance(event := await upcoming(events), Upserted):
        assert isinstance(event, ReadProblem)
    assert event.object.key.name == "q"  # p is as it was
    server.remove(POLICIES, "p", "default")
    assert said(await upcoming(events)) == "solved NetworkPolicy default/p"
    gone = await upcoming(events)
    assert isinstance(gone, Deleted)
    assert replace(gone.object, metadata=valid.object.metadata) == valid.object


def network_policy(cidr: str, pods: dict[str, Any]) -> dict[str, Any]:
    spec = {"podSelector": pods, "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]}
    return {"metadata": {"name": "p", "namespace": "default"}, "spec": spec}


def isolation(policy: NetworkPolicy) -> dict[str, str]:
    """Of the pods with these labels."""
    assert (policy.spec.types, policy.spec.ingress, policy.spec.egress) == (("Ingress", "Egress"), (), ())
    assert not policy.spec.podSelector.matchExpressions
    return policy.spec.podSelector.matchLabels


async def test_null_fields_are_absent(server: FakeApiServer, store: KubernetesStore) -> None:
    metadata = {"name": "s", "namespace": "default", "labels": {"a": None}}
    server.write(SLICES, {"metadata": metadata, "addressType": "IPv4", "endpoints": None, "ports": None})
    (found,) = await store.list(EndpointSlice)
    assert (found.endpoints, found.ports, found.metadata.labels) == ((), (), {"a": ""})


async def test_long_lines_and_bookmarks(server: FakeApiServer, events: AsyncIterator[Event]) -> None:
    server.write(CONFIG_MAPS, config_map("long", "x" * 3_000_000))
    assert len(said(await upcoming(events))) > 3_000_000
    server.bookmark_every = 0.01
    server.write(CONFIG_MAPS, config_map("a", "2"))
    assert said(await upcoming(events)) == "put a=2"
    await asyncio.sleep(0.1)
    server.write(CONFIG_MAPS, config_map("a", "3"))
    assert said(await upcoming(events)) == "put a=3"
    assert server.asked("list", "configmaps") == 1


async def test_a_watch_that_the_server_ends_goes_on_without_a_list(
    server: FakeApiServer, store: KubernetesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_watch, "_WATCH_SECONDS", 1.0)
    monkeypatch.setattr(list_watch, "_STEADY", 0.0)
    events = store.watch(ConfigMap)
    await upcoming(events)
    await watched(server, 3)
    server.write(CONFIG_MAPS, config_map("a"))
    assert said(await upcoming(events)) == "put a=1"
    assert server.asked("list", "configmaps") == 1
    versions = [each.query["resourceVersion"] for each in server.requests if each.verb == "watch"]
    assert len(set(versions)) == 1
    assert json.loads(versions[0]) > 0


async def test_a_silent_network_is_a_cut(
    server: FakeApiServer, store: KubernetesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("percale.store.kubernetes.api_client._SILENCE", 0.05)
    events = store.watch(ConfigMap)
    await upcoming(events)
    await watched(server, 3)
    assert server.asked("list", "configmaps") >= 3
    server.write(CONFIG_MAPS, config_map("a"))
    assert said(await upcoming(events)) == "put a=1"


async def test_a_server_that_is_away_is_one_problem(server: FakeApiServer, store: KubernetesStore) -> None:
    events = store.watch(ConfigMap, Pod, EndpointSlice)
    assert said(await upcoming(events)) == "Snapshot"
    tokens, server.tokens = server.tokens, set()
    server.cut()
    first = said(await upcoming(events))
    assert "the credentials are not accepted" in first
    await asyncio.sleep(0.3)  # the others fail too
    server.tokens = tokens
    current = {_source(first)}
    while current:
        event = said(await upcoming(events))
        if event.startswith("problem"):
            current.add(_source(event))
        else:
            current.remove(_source(event))
        assert len(current) <= 2  # another resource tells it before the first one says that it is solved
    server.write(CONFIG_MAPS, config_map("a"))
    assert said(await upcoming(events)) == "put a=1"


def _source(text: str) -> str:
    return text.split()[1].rstrip(":")
