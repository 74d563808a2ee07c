"""Writing through the API: what the model does not know stays, status is a subresource, Events need few rights."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from tests.fake_api_server import FakeApiServer, Request, refuse
from tests.unit.store.kubernetes.conftest import CONFIG_MAPS, NODES, PODS, config_map, node

from percale.errors import BadManifest, Conflict, NotFound, StoreUnavailable
from percale.model.condition import Condition
from percale.model.configmap import ConfigMap
from percale.model.event import Event, ObjectReference
from percale.model.kinds import KINDS
from percale.model.meta import ObjectKey, ObjectMeta
from percale.model.node import Node
from percale.model.pod import Container, Pod, PodSpec, PodStatus
from percale.store.kubernetes.rate_limit import RateLimit
from percale.store.kubernetes.resources import BUILT_IN_GROUPS
from percale.store.kubernetes.store import KubernetesStore

KEY = ObjectKey("default", "a")


async def test_a_change_keeps_what_the_model_does_not_know(server: FakeApiServer, store: KubernetesStore) -> None:
    server.write(CONFIG_MAPS, {**config_map("a"), "immutable": False, "binaryData": {"y": "AA=="}})
    found = await store.get(ConfigMap, KEY)
    assert found is not None
    await store.put(replace(found, data={"z": "2"}), expect=found.metadata.resourceVersion)
    written = server.read(CONFIG_MAPS, "a", "default")
    assert written is not None
    assert written["data"] == {"z": "2"}
    assert (written["immutable"], written["binaryData"]) == (False, {"y": "AA=="})


async def test_a_condition_is_added_beside_the_kubelets(server: FakeApiServer, store: KubernetesStore) -> None:
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": "now"}
    server.write(NODES, {**node("n1"), "status": {"conditions": [ready], "images": ["x"]}})
    found = await store.get(Node, ObjectKey(None, "n1"))
    assert found is not None
    condition = Condition(type="NetworkUnavailable", status="False", reason="up")
    status = replace(found.status, conditions=(*found.status.conditions, condition))
    await store.put(replace(found, status=status), expect=found.metadata.resourceVersion)
    written = server.read(NODES, "n1")
    assert written is not None
    added = {"type": "NetworkUnavailable", "status": "False", "reason": "up"}
    assert written["status"] == {"conditions": [ready, added], "images": ["x"]}
    assert [each.rule for each in server.requests] == [("get", "nodes"), ("get", "nodes"), ("patch", "nodes/status")]


async def test_spec_and_status_are_two_requests(server: FakeApiServer, store: KubernetesStore) -> None:
    pod = Pod(
        metadata=ObjectMeta(name="a", namespace="default"),
        spec=PodSpec(containers=(Container(name="c"),)),
        status=PodStatus(phase="Running"),
    )
    created = await store.put(pod, expect="")
    assert created.status == pod.status
    changed = replace(created, spec=replace(pod.spec, nodeName="n1"), status=PodStatus(phase="Succeeded"))
    written = await store.put(changed, expect=created.metadata.resourceVersion)
    assert (written.spec.nodeName, written.status.phase) == ("n1", "Succeeded")
    assert server.read(PODS, "a", "default")["status"] == {"phase": "Succeeded"}  # type: ignore[index]


async def test_a_race_is_a_conflict_or_tried_again(server: FakeApiServer, store: KubernetesStore) -> None:
    first = await store.put(ConfigMap(metadata=ObjectMeta(name="a"), data={"x": "1"}))
    races = ["2", "3"]

    def race(request: Request) -> None:
        if request.verb == "patch" and races:
            server.write(CONFIG_MAPS, config_map("a", races.pop()))

    server.faults.append(race)
    with pytest.raises(Conflict, match="ConfigMap default/a has changed"):
        await store.put(replace(first, data={"x": "9"}), expect=first.metadata.resourceVersion)
    written = await store.put(replace(first, data={"x": "9"}))
    assert written.data == {"x": "9"}
    assert races == []


async def test_a_missing_namespace_is_named(store: KubernetesStore) -> None:
    with pytest.raises(NotFound, match='namespaces "none" not found'):
        await store.put(ConfigMap(metadata=ObjectMeta(name="a", namespace="none")), expect="")


async def test_an_event_needs_the_rights_to_create_and_to_patch(server: FakeApiServer, store: KubernetesStore) -> None:
    server.forbidden |= {("get", "events"), ("list", "events")}
    event = Event(
        metadata=ObjectMeta(name="a", namespace="default"), involvedObject=ObjectReference(name="x"), message="1"
    )
    await store.put(event, ttl=3600)
    written = await store.put(replace(event, count=2), ttl=3600)
    assert (written.count, written.message) == (2, "1")
    assert [each.verb for each in server.requests] == ["create", "create", "patch"]


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (422, BadManifest, "as asked"),
        (503, StoreUnavailable, "error 503: as asked"),
        (403, StoreUnavailable, "verb create on configmaps is refused: as asked"),
        (418, StoreUnavailable, "ConfigMap default/a: as asked"),
    ],
)
async def test_what_the_server_refuses(
    server: FakeApiServer, store: KubernetesStore, code: int, error: type[Exception], said: str
) -> None:
    server.faults.append(refuse("create", "configmaps", code))
    with pytest.raises(error, match=said):
        await store.put(ConfigMap(metadata=ObjectMeta(name="a")), expect="")
    assert server.asked("create", "configmaps") == 1


async def test_a_name_cannot_lead_to_another_path(server: FakeApiServer, store: KubernetesStore) -> None:
    for name in ("../../secrets", "a?b", "a#b", "a%2Fb"):
        assert await store.get(ConfigMap, ObjectKey("default", name)) is None
    assert {each.plural for each in server.requests} == {"configmaps"}


async def test_requests_are_bounded() -> None:
    limit = RateLimit(100, 5)
    clock = asyncio.get_running_loop().time
    began = clock()
    for _ in range(5):
        await limit.wait()
    assert clock() - began < 0.02
    await asyncio.gather(*(limit.wait() for _ in range(10)))
    assert 0.09 < clock() - began < 1


def test_the_kinds_that_a_server_may_lack() -> None:
    """Every kind of a built-in group is on every API server: one of another group is looked for again and again."""
    assert {kind.KIND for kind in KINDS.values() if kind.api_group() not in BUILT_IN_GROUPS} == {
        "AddressBlock",
        "BGPConfiguration",
        "BGPFilter",
        "BGPPeer",
        "ClusterNetworkPolicy",
        "IPPool",
        "IPReservation",
        "SubnetLease",
    }
