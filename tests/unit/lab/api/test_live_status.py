"""The status of workloads and nodes, as an API server would answer."""

from __future__ import annotations

from typing import Any

from msgspec import convert
from tests import builders

from percale.controllers.workloads import REVISION_LABEL, TEMPLATE_LABEL, template_hash
from percale.lab.api.live_status import LiveState, pods_by_owner, with_status
from percale.model.condition import holds
from percale.model.meta import Object
from percale.model.pod import Pod
from percale.model.workloads import DaemonSet, Deployment, StatefulSet

TEMPLATE = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}}


def workload(kind: type[Any], **spec: Any) -> Any:
    plain = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {}, "template": TEMPLATE, **spec},
    }
    return convert(plain, kind)


def state(*pods: Pod, ready_nodes: tuple[str, ...] = ()) -> LiveState:
    return LiveState(pods_by_owner(pods), [builders.node("n1"), builders.node("n2")], frozenset(ready_nodes))


def status_of(obj: Object, *pods: Pod) -> Any:
    return getattr(with_status(obj, state(*pods)), "status")  # noqa: B009 -- workloads have one


def test_a_deployment_counts_pods_of_its_template_and_of_older_ones() -> None:
    deployment = workload(Deployment, replicas=2)
    revision = template_hash(deployment.spec.template)
    new = builders.pod("web-1", owner=f"ReplicaSet/web-{revision}", labels={TEMPLATE_LABEL: revision}, ready=False)
    old = [
        builders.pod(f"web-o{n}", owner="ReplicaSet/web-old", labels={TEMPLATE_LABEL: "old"}, ready=True) for n in "ab"
    ]
    status = status_of(deployment, new, *old)
    assert (status.replicas, status.updatedReplicas, status.readyReplicas, status.availableReplicas) == (3, 1, 2, 2)
    assert holds(status.conditions, "Available")
    assert not holds(status_of(deployment, new).conditions, "Available")
    assert with_status(workload(Deployment), state()).spec.replicas == 1


def test_stateful_and_daemon_sets_know_their_template_by_its_revision() -> None:
    revision = template_hash(workload(StatefulSet).spec.template)
    pods = [
        builders.pod(f"web-{n}", owner=f"{kind}/web", labels={REVISION_LABEL: label}, ready=True)
        for kind in ("StatefulSet", "DaemonSet")
        for n, label in enumerate((revision, "old"))
    ]
    stateful = status_of(workload(StatefulSet, replicas=2), *pods)
    assert (stateful.replicas, stateful.updatedReplicas, stateful.readyReplicas) == (2, 1, 2)
    daemons = status_of(workload(DaemonSet), *pods)
    assert (daemons.desiredNumberScheduled, daemons.numberReady, daemons.updatedNumberScheduled) == (2, 2, 1)


def test_a_node_is_ready_with_its_agent_and_a_pods_containers_with_the_pod() -> None:
    nodes = [with_status(builders.node(name), state(ready_nodes=("n1",))) for name in ("n1", "n2")]
    assert [node.ready for node in nodes] == [True, False]
    (container,) = with_status(builders.pod(ready=True), state()).status.containerStatuses
    assert (container.name, container.ready, container.restartCount) == ("main", True, 0)
