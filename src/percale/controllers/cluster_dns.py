"""The Service and Pod of the lab's DNS server, as CoreDNS has them in a cluster. Pure; used by `admission` and `services`."""

from __future__ import annotations

from percale.controllers.service_networks import ServiceNetworks
from percale.model.ip_family import Family
from percale.model.meta import ObjectKey, ObjectMeta
from percale.model.pod import Container, ContainerPort, Pod, PodSpec
from percale.model.service import Service, ServicePort, ServiceSpec

NAMESPACE = "kube-system"
POD = ObjectKey(NAMESPACE, "dns")
SERVICE = ObjectKey(NAMESPACE, "kube-dns")

_LABELS = {"k8s-app": "kube-dns"}
_PORT = 53


def dns_pod() -> Pod:
    """Served by `lab/dns`, not by a container."""
    ports = (
        ContainerPort(name="dns", containerPort=_PORT, protocol="UDP"),
        ContainerPort(name="dns-tcp", containerPort=_PORT, protocol="TCP"),
    )
    return Pod(
        metadata=ObjectMeta(name=POD.name, namespace=NAMESPACE, labels=_LABELS),
        spec=PodSpec(containers=(Container(name="dns", image="percale-lab-dns", ports=ports),)),
    )


def dns_service(networks: ServiceNetworks) -> Service:
    """With the cluster IPs that every pod has in its /etc/resolv.conf."""
    addresses = networks.name_servers
    return Service(
        metadata=ObjectMeta(name=SERVICE.name, namespace=NAMESPACE, labels=_LABELS),
        spec=ServiceSpec(
            selector=_LABELS,
            clusterIP=addresses[0],
            clusterIPs=addresses,
            ipFamilies=tuple(Family(cidr.version).kubernetes for cidr in networks.cidrs),
            ipFamilyPolicy="PreferDualStack" if len(addresses) > 1 else "SingleStack",
            internalTrafficPolicy="Cluster",
            ports=(
                ServicePort(name="dns", port=_PORT, protocol="UDP"),
                ServicePort(name="dns-tcp", port=_PORT, protocol="TCP"),
            ),
        ),
    )
