"""The ports of well-known images: what their containers listen on, whether a manifest names it or not. Pure; used by `kubelet`.

`kubectl create deployment nginx --image=nginx` names no port, and is reached at 80 all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from percale.lab.pods.responder import Port
from percale.model.pod import Container, Pod

_EXPOSED = {
    "httpd": 80,
    "memcached": 11211,
    "mongo": 27017,
    "mysql": 3306,
    "nginx": 80,
    "nginx-unprivileged": 8080,
    "postgres": 5432,
    "rabbitmq": 5672,
    "redis": 6379,
    "whoami": 80,
}
"""As their Dockerfiles EXPOSE them; by the last part of the image's name."""


def served_ports(pod: Pod) -> set[Port]:
    """The TCP and UDP ports that the pod answers on."""
    return {port for container in pod.spec.containers for port in _ports(container)}


def _ports(container: Container) -> Iterator[Port]:
    if container.ports:
        yield from (Port(port.containerPort, port.protocol) for port in container.ports if port.protocol != "SCTP")
    elif not container.command and not container.args:
        name = (container.image or "").partition("@")[0].rpartition("/")[2].partition(":")[0]
        if name in _EXPOSED:
            yield Port(_EXPOSED[name], "TCP")
