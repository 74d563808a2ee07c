"""Workloads become pods: from any state to what they say, and no further."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

import pytest
from msgspec.structs import replace
from tests import builders
from tests.builders import metadata, node
from tests.unit.controllers.cluster import READY, Cluster

from percale.controllers.scheduler import Scheduler, Unschedulable
from percale.controllers.service_networks import ServiceNetworks
from percale.controllers.workloads import Create, Delete, template_hash, unused_names
from percale.model.meta import Object, ObjectMeta
from percale.model.node import Node
from percale.model.pod import Container, Pod, PodSpec, PodStatus, PodTemplateSpec, Protocol
from percale.model.selector import LabelSelector
from percale.model.workloads import (
    CronJob,
    CronJobSpec,
    DaemonSet,
    DaemonSetSpec,
    Deployment,
    DeploymentSpec,
    Job,
    JobSpec,
    JobTemplateSpec,
    ReplicaSet,
    StatefulSet,
    StatefulSetSpec,
)

SSD = {"disk": "ssd"}


def template(image: str = "nginx", **selector: str) -> PodTemplateSpec:
    spec = PodSpec(containers=(Container(name="c", image=image),), nodeSelector=selector)
    return PodTemplateSpec(spec=spec, metadata=ObjectMeta(labels={"app": "web"}))


def deployment(replicas: int, image: str = "nginx") -> Deployment:
    return Deployment(
        metadata=metadata("web"),
        spec=DeploymentSpec(selector=LabelSelector(), template=template(image), replicas=replicas),
    )


class Lab(Cluster):
    def __init__(self, *objects: Object) -> None:
        super().__init__(ServiceNetworks((ip_network("10.96.0.0/16"),), ()), *objects)

    @property
    def pods(self) -> dict[str, str | None]:
        return {pod.metadata.name: pod.spec.nodeName for pod in self.cache.all(Pod)}

    @property
    def sets(self) -> list[int | None]:
        return [each.spec.replicas for each in self.cache.all(ReplicaSet)]


def test_a_deployment_becomes_pods_with_kubernetes_names_spread_over_nodes() -> None:
    lab = Lab(deployment(3), node("n1"), node("n2"), node("n3"))
    lab.settle()
    (made,) = lab.cache.all(ReplicaSet)
    assert made.metadata.name == f"web-{template_hash(template())}"
    assert made.metadata.ownerReferences[0].kind == "Deployment"
    assert sorted(filter(None, lab.pods.values())) == ["n1", "n2", "n3"]
    for pod in lab.cache.all(Pod):
        assert pod.metadata.name.startswith(f"{made.metadata.name}-")
        assert len(pod.metadata.name.rpartition("-")[2]) == 5
        assert pod.metadata.ownerReferences[0].name == made.metadata.name
        assert pod.metadata.labels == {"app": "web", "pod-template-hash": template_hash(template())}


def test_names_are_the_same_in_every_lab() -> None:
    first, second = Lab(deployment(3), node("n1")), Lab(deployment(3), node("n1"))
    first.settle()
    second.settle()
    assert first.pods == second.pods


def test_scaling_keeps_those_that_are_ready_and_never_uses_a_name_twice() -> None:
    lab = Lab(deployment(3), node("n1"))
    lab.settle()
    before = set(lab.pods)
    weak = lab.cache.all(Pod)[0]
    lab.cache.put(replace(weak, status=PodStatus(phase="Pending")))
    lab.cache.put(deployment(2))
    lab.settle()
    assert set(lab.pods) == before - {weak.metadata.name}
    lab.cache.put(deployment(3))
    lab.settle()
    (new,) = set(lab.pods) - before
    assert new not in before
    lab.cache.put(deployment(0))
    lab.settle()
    assert lab.pods == {}


def test_a_pod_that_somebody_deletes_is_replaced_under_another_name() -> None:
    lab = Lab(deployment(2), node("n1"))
    lab.settle()
    gone = lab.cache.all(Pod)[0]
    lab.cache.remove(gone)
    lab.settle()
    assert len(lab.pods) == 2
    assert gone.metadata.name not in lab.pods


def test_a_new_template_replaces_the_pods_once_the_new_ones_are_ready() -> None:
    lab = Lab(deployment(2), node("n1"))
    lab.settle()
    old = set(lab.pods)
    lab.cache.put(deployment(2, image="nginx:2"))
    lab.settle(ready=False)
    assert old < set(lab.pods)
    assert len(lab.pods) == 4
    for pod in lab.cache.all(Pod):
        lab.cache.put(replace(pod, status=READY))
    lab.settle()
    assert len(lab.pods) == 2
    assert not old & set(lab.pods)
    assert sorted(each or 0 for each in lab.sets) == [0, 2]


def test_a_deployment_that_goes_takes_its_sets_and_pods_along() -> None:
    lab = Lab(deployment(2), node("n1"))
    lab.settle()
    lab.cache.remove(lab.cache.all(Deployment)[0])
    lab.settle()
    assert (lab.pods, lab.sets) == ({}, [])


def test_a_statefulset_has_numbered_pods_that_keep_their_names() -> None:
    def web(image: str, replicas: int) -> StatefulSet:
        spec = StatefulSetSpec(
            selector=LabelSelector(), template=template(image), replicas=replicas, serviceName="names"
        )
        return StatefulSet(metadata=metadata("web"), spec=spec)

    lab = Lab(web("a", 12), node("n1"))
    lab.settle()
    assert set(lab.pods) == {f"web-{number}" for number in range(12)}
    lab.cache.put(web("a", 2))
    lab.settle()
    assert set(lab.pods) == {"web-0", "web-1"}
    lab.cache.put(web("b", 2))
    assert {type(write) for write in lab.settle()} == {Delete, Create}
    assert set(lab.pods) == {"web-0", "web-1"}
    assert {pod.spec.containers[0].image for pod in lab.cache.all(Pod)} == {"b"}
    for pod in lab.cache.all(Pod):
        name = pod.metadata.name
        assert (pod.spec.hostname, pod.spec.subdomain) == (name, "names"), "its DNS name is web-0.names"
        assert pod.metadata.labels["statefulset.kubernetes.io/pod-name"] == name


def test_a_daemonset_has_one_pod_on_each_node_that_its_selector_fits() -> None:
    spec = DaemonSetSpec(selector=LabelSelector(), template=template(disk="ssd"))
    lab = Lab(
        DaemonSet(metadata=metadata("web"), spec=spec), node("n1", labels=SSD), node("n2"), node("n3", labels=SSD)
    )
    lab.settle()
    assert sorted(filter(None, lab.pods.values())) == ["n1", "n3"]
    lab.cache.put(node("n2", labels=SSD))
    lab.cache.put(node("n3"))
    lab.settle()
    assert sorted(filter(None, lab.pods.values())) == ["n1", "n2"]


def test_a_job_has_as_many_pods_as_may_run_at_once() -> None:
    lab = Lab(
        Job(metadata=metadata("web"), spec=JobSpec(template=template(), parallelism=3, completions=2)), node("n1")
    )
    lab.settle()
    assert len(lab.pods) == 2
    assert all(name.startswith("web-") for name in lab.pods)


def cron_job(image: str = "nginx") -> CronJob:
    spec = JobSpec(template=template(image), parallelism=2)
    return CronJob(
        metadata=metadata("backup"),
        spec=CronJobSpec(schedule="0 3 * * *", jobTemplate=JobTemplateSpec(spec=spec, metadata=ObjectMeta(labels=SSD))),
    )


def test_a_cron_job_has_one_job_of_its_template() -> None:
    lab = Lab(cron_job(), Job(metadata=metadata("own"), spec=JobSpec(template=template())), node("n1"))
    lab.settle()
    (made,) = [each for each in lab.cache.all(Job) if each.metadata.name != "own"]
    assert made.metadata.name.startswith("backup-")
    assert (made.metadata.labels, made.metadata.ownerReferences[0].kind) == (SSD, "CronJob")
    before = {name for name in lab.pods if name.startswith(f"{made.metadata.name}-")}
    assert (len(before), len(lab.pods)) == (2, 3)
    lab.cache.put(cron_job("redis"))
    lab.settle()
    assert (len(lab.pods), before & set(lab.pods)) == (3, set())
    lab.cache.remove(cron_job())
    lab.settle()
    assert [each.metadata.name for each in lab.cache.all(Job)] == ["own"]
    assert all(name.startswith("own-") for name in lab.pods)


def test_pods_of_a_node_that_leaves_move_if_a_workload_owns_them() -> None:
    lab = Lab(deployment(2), node("n1"), node("n2"), replace(builders.pod("own"), status=READY))
    lab.settle()
    lab.cache.remove(node("n1"))
    lab.settle()
    assert "own" not in lab.pods
    assert list(lab.pods.values()) == ["n2", "n2"]


def test_a_pod_that_fits_nowhere_says_why_and_is_placed_when_it_does() -> None:
    lab = Lab(
        builders.pod("picky", node=None, nodeSelector=SSD), builders.pod("lost", node="nowhere"), node("n1"), node("n2")
    )
    lab.settle()
    reasons = {pod.metadata.name: pod.status.conditions[0].message for pod in lab.cache.all(Pod)}
    assert reasons == {"picky": "none of 2 nodes has the labels disk=ssd", "lost": "there is no node nowhere"}
    lab.cache.put(node("n2", labels=SSD))
    lab.settle()
    assert lab.pods == {"picky": "n2", "lost": "nowhere"}


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [([], "the lab has no nodes"), ([node("n1", unschedulable=True)], "none of 1 node takes pods")],
)
def test_scheduler_without_a_choice(nodes: Iterable[Node], reason: str) -> None:
    assert Scheduler(list(nodes)).place(builders.pod(node=None)) == Unschedulable(reason)


def with_host_port(name: str, port: int, protocol: Protocol = "TCP", at: str | None = None) -> Pod:
    ports = [{"containerPort": 80, "hostPort": port, "protocol": protocol, "hostIP": at}]
    return builders.pod(name, node=None, ports=ports)


def test_a_host_port_is_one_pods_on_each_node() -> None:
    scheduler = Scheduler([node("n1"), node("n2")])
    assert {scheduler.place(with_host_port(name, 8081)) for name in "ab"} == {"n1", "n2"}
    assert scheduler.place(with_host_port("c", 8081)) == Unschedulable(
        "none of 2 nodes has the host port 8081/TCP free"
    )
    assert isinstance(scheduler.place(with_host_port("d", 8081, "UDP")), str), "another protocol"
    assert isinstance(scheduler.place(with_host_port("e", 8081, at="192.168.1.2")), Unschedulable), (
        "they have all addresses"
    )
    assert isinstance(scheduler.place(with_host_port("f", 8082, at="192.168.1.2")), str)
    assert isinstance(scheduler.place(with_host_port("g", 8082, at="192.168.1.3")), str)


def test_names_stay_within_a_label() -> None:
    names = unused_names("x" * 80, ())
    assert len(next(names)) == 63
    assert next(names) != next(names)


def test_a_pod_in_its_grace_period_is_replaced_at_once_but_keeps_its_name() -> None:
    stateful = StatefulSet(metadata=metadata("db"), spec=StatefulSetSpec(selector=LabelSelector(), template=template()))
    lab = Lab(deployment(2), stateful, node("n1"))
    lab.settle()
    for pod in lab.cache.all(Pod):
        lab.cache.put(replace(pod, metadata=replace(pod.metadata, deletionTimestamp="2026-01-01T00:00:00Z")))
    lab.settle()
    assert len([name for name in lab.pods if name.startswith("web-")]) == 4
    assert [name for name in lab.pods if name.startswith("db-")] == ["db-0"]
    for pod in lab.cache.all(Pod):
        if pod.terminating:
            lab.cache.remove(pod)
    lab.settle()
    assert len(lab.pods) == 3
    assert "db-0" in lab.pods
