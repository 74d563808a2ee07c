"""What the containers of a pod listen on."""

from __future__ import annotations

import pytest

from percale.lab.pods.image_ports import served_ports
from percale.lab.pods.responder import Port
from percale.model.meta import ObjectMeta
from percale.model.pod import Container, ContainerPort, Pod, PodSpec


def pod(*containers: Container) -> Pod:
    return Pod(metadata=ObjectMeta(name="a"), spec=PodSpec(containers=containers))


@pytest.mark.parametrize(
    "image", ["nginx", "nginx:1.27-alpine", "docker.io/library/nginx@sha256:00", "r.io:5000/nginx:1"]
)
def test_a_well_known_image_listens_on_its_own_port(image: str) -> None:
    assert served_ports(pod(Container(name="c", image=image))) == {Port(80, "TCP")}


def test_named_ports_and_another_command_are_the_containers_own() -> None:
    ports = (ContainerPort(containerPort=8080), ContainerPort(containerPort=9, protocol="SCTP"))
    own = Container(name="a", image="nginx", ports=ports)
    shell = Container(name="b", image="redis", command=("sleep", "1d"))
    assert served_ports(pod(own, shell, Container(name="c", image="busybox"))) == {Port(8080, "TCP")}
