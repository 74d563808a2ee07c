"""Group, version, plural and scope of each kind, as `kubectl api-resources` lists them."""

from __future__ import annotations

from percale.model.kinds import KINDS

UPSTREAM = """\
configmaps               v1                               true   ConfigMap
endpoints                v1                               true   Endpoints
events                   v1                               true   Event
namespaces               v1                               false  Namespace
nodes                    v1                               false  Node
pods                     v1                               true   Pod
services                 v1                               true   Service
daemonsets               apps/v1                          true   DaemonSet
deployments              apps/v1                          true   Deployment
replicasets              apps/v1                          true   ReplicaSet
statefulsets             apps/v1                          true   StatefulSet
cronjobs                 batch/v1                         true   CronJob
jobs                     batch/v1                         true   Job
endpointslices           discovery.k8s.io/v1              true   EndpointSlice
ingresses                networking.k8s.io/v1             true   Ingress
networkpolicies          networking.k8s.io/v1             true   NetworkPolicy
clusternetworkpolicies   policy.networking.k8s.io/v1alpha2 false ClusterNetworkPolicy
bgpconfigurations        crd.projectcalico.org/v1         false  BGPConfiguration
bgpfilters               crd.projectcalico.org/v1         false  BGPFilter
bgppeers                 crd.projectcalico.org/v1         false  BGPPeer
ippools                  crd.projectcalico.org/v1         false  IPPool
ipreservations           crd.projectcalico.org/v1         false  IPReservation
addressblocks            percale.io/v1alpha1              false  AddressBlock
subnetleases             percale.io/v1alpha1              false  SubnetLease
"""


def test_each_kind_has_the_group_version_plural_and_scope_of_the_api() -> None:
    ours = {
        (kind.PLURAL, f"{kind.api_group()}/{kind.version()}".removeprefix("/"), str(kind.NAMESPACED).lower(), kind.KIND)
        for kind in KINDS.values()
    }
    assert ours == {tuple(line.split()) for line in UPSTREAM.splitlines()}
