"""The known kinds. The decoder and the stores take them as a value, so that other packages can add their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from percale.model.bgp import BGPConfiguration, BGPFilter, BGPPeer
from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.configmap import ConfigMap
from percale.model.endpoints import Endpoints, EndpointSlice
from percale.model.event import Event
from percale.model.ingress import Ingress
from percale.model.ip_pool import AddressBlock, IPPool, IPReservation
from percale.model.meta import Object
from percale.model.namespace import Namespace
from percale.model.networkpolicy import NetworkPolicy
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.model.workloads import CronJob, DaemonSet, Deployment, Job, ReplicaSet, StatefulSet

Kinds: TypeAlias = Mapping[str, type[Object]]
"""By `kind`."""


def kinds_of(*types: type[Object]) -> Kinds:
    """These kinds by name: `{**KINDS, **kinds_of(Lab)}`."""
    return {each.KIND: each for each in types}


KINDS: Kinds = kinds_of(
    Node,
    Namespace,
    Pod,
    Service,
    EndpointSlice,
    Endpoints,
    NetworkPolicy,
    ClusterNetworkPolicy,
    Deployment,
    ReplicaSet,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
    Ingress,
    ConfigMap,
    Event,
    SubnetLease,
    BGPConfiguration,
    BGPPeer,
    BGPFilter,
    IPPool,
    IPReservation,
    AddressBlock,
)
