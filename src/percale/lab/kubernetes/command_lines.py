"""How Kubernetes' programs are started for a lab. Pure.

They run in the lab's own network namespace, the router's: etcd on its loopback device, the API server on all its addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from percale.lab.kubernetes.credentials import Credentials
from percale.lab.spec.topology import Topology
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.netconf import NetworkConfig

API_PORT = 6443
_ETCD = "http://127.0.0.1:2379"
_ETCD_PEER = "http://127.0.0.1:2380"


def api_address(machines: Topology, cidrs: tuple[IPNetwork, ...]) -> IPAddress:
    """The router's address on the first segment, of the Services' first family: all machines have a route to it."""
    segment = machines.segments[0]
    return segment.gateway.ip if cidrs[0].version == 4 else segment.gateway6.ip


def command_lines(
    programs: Mapping[str, Path],
    files: Credentials,
    address: IPAddress,
    network: NetworkConfig,
    services: tuple[IPNetwork, ...],
) -> list[list[str]]:
    """Each program with its arguments."""
    service_range = ",".join(map(str, services))
    etcd = [
        f"--data-dir={files.directory / 'etcd'}",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        f"--listen-peer-urls={_ETCD_PEER}",
        f"--initial-advertise-peer-urls={_ETCD_PEER}",
        f"--initial-cluster=default={_ETCD_PEER}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]
    api_server = [
        f"--etcd-servers={_ETCD}",
        f"--advertise-address={address}",
        f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={service_range}",
        "--authorization-mode=RBAC",
        "--anonymous-auth=false",
        "--disable-admission-plugins=ServiceAccount",  # pods have no processes that could use a token
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={files.accounts_key}",
        f"--service-account-signing-key-file={files.accounts_key}",
        f"--client-ca-file={files.authority}",
        f"--tls-cert-file={files.certificate('kube-apiserver')}",
        f"--tls-private-key-file={files.key('kube-apiserver')}",
        f"--kubelet-client-certificate={files.certificate('admin')}",
        f"--kubelet-client-key={files.key('admin')}",
        "--kubelet-preferred-address-types=InternalIP",
    ]
    controller_manager = [
        f"--kubeconfig={files.kubeconfig('kube-controller-manager')}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={','.join(map(str, network.networks))}",
        *_mask_sizes(network),
        f"--service-cluster-ip-range={service_range}",
        f"--root-ca-file={files.authority}",
        f"--service-account-private-key-file={files.accounts_key}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]
    scheduler = [
        f"--kubeconfig={files.kubeconfig('kube-scheduler')}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ]
    lines = {
        "etcd": etcd,
        "kube-apiserver": api_server,
        "kube-controller-manager": controller_manager,
        "kube-scheduler": scheduler,
    }
    return [[str(programs[name]), *arguments] for name, arguments in lines.items()]


def _mask_sizes(network: NetworkConfig) -> list[str]:
    """The length of nodes' subnets, as SubnetLen says."""
    lengths = {subnets.network.version: subnets.length for subnets in network.families.values()}
    if len(lengths) == 1:
        return [f"--node-cidr-mask-size={length}" for length in lengths.values()]
    return [f"--node-cidr-mask-size-ipv{version}={length}" for version, length in lengths.items()]
