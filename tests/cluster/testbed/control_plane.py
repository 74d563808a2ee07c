"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler of a testbed, with certificates for everyone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.certificates import Pair, authority, issue, rsa_key
from tests.cluster.api_server import write_kubeconfig
from tests.cluster.testbed import cgroups
from tests.cluster.testbed.layout import CONTROL_PLANE, Layout, Node
from tests.cluster.testbed.processes import TestbedError, in_control_plane, run, start
from tests.waiting import until

_PATIENCE = 120.0
_ETCD = "http://127.0.0.1:2379"
_API_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


class ControlPlane:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._keys = layout.root / "keys"

    def start(self) -> None:
        """Returns once the API server serves."""
        self._keys.mkdir()
        ours = authority(self._keys)
        layout, families = self._layout, self._layout.families
        addresses = ("127.0.0.1", *(each for family in families for each in (family.control_plane, family.api_service)))
        names = (*(f"IP:{each}" for each in addresses), *(f"DNS:{each}" for each in _API_NAMES))
        server = issue(ours, "server", subject="/CN=kube-apiserver", serves=names)
        proxy = issue(ours, "front-proxy", subject="/CN=front-proxy")
        accounts = rsa_key(self._keys / "accounts.key")
        admin = self._user(ours, "admin", "/O=system:masters/CN=admin")

        cgroups.create(CONTROL_PLANE)
        self._daemon(
            "etcd",
            *(f"--data-dir={self._layout.root / 'etcd'}", f"--listen-client-urls={_ETCD}", "--unsafe-no-fsync"),
            *(f"--advertise-client-urls={_ETCD}", "--listen-peer-urls=http://127.0.0.1:2380", "--log-level=warn"),
        )
        self._daemon(
            "kube-apiserver",
            *(f"--etcd-servers={_ETCD}", f"--advertise-address={layout.control_plane}", "--bind-address=::"),
            *(f"--service-cluster-ip-range={layout.each('services')}", "--allow-privileged=true"),
            *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            *(f"--service-account-{use}-file={accounts}" for use in ("key", "signing-key")),
            *(f"--client-ca-file={ours.certificate}", f"--requestheader-client-ca-file={ours.certificate}"),
            *(f"--tls-cert-file={server.certificate}", f"--tls-private-key-file={server.key}"),
            *(f"--kubelet-client-certificate={admin.certificate}", f"--kubelet-client-key={admin.key}"),
            "--kubelet-preferred-address-types=InternalIP",
            *(f"--proxy-client-cert-file={proxy.certificate}", f"--proxy-client-key-file={proxy.key}"),
            *("--requestheader-allowed-names=front-proxy", "--requestheader-username-headers=X-Remote-User"),
            *("--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-"),
        )
        until(lambda: serves(layout), "the API server is ready", patience=_PATIENCE)
        for name, *options in (
            (
                "kube-controller-manager",
                *("--use-service-account-credentials", "--allocate-node-cidrs"),
                *(f"--node-cidr-mask-size-ipv{each.version}={each.node_prefix}" for each in families),
                *(f"--cluster-cidr={layout.each('pods')}", f"--service-cluster-ip-range={layout.each('services')}"),
                *(f"--root-ca-file={ours.certificate}", f"--service-account-private-key-file={accounts}"),
                *(f"--cluster-signing-cert-file={ours.certificate}", f"--cluster-signing-key-file={ours.key}"),
            ),
            ("kube-scheduler",),
        ):
            self._user(ours, name, f"/CN=system:{name}")
            kubeconfig = self._layout.root / name / "kubeconfig"
            self._daemon(name, f"--kubeconfig={kubeconfig}", "--leader-elect=false", *options)

    def admit(self, node: Node) -> Pair:
        """A kubeconfig for the node's kubelet, and its certificate as a server."""
        ours = Pair(self._keys / "authority.crt", self._keys / "authority.key")
        self._user(ours, node.name, f"/O=system:nodes/CN=system:node:{node.name}")
        names = (*(f"IP:{each}" for each in node.addresses), f"DNS:{node.name}")
        return issue(ours, f"{node.name}-kubelet", subject=f"/CN=system:node:{node.name}", serves=names)

    def _user(self, ours: Pair, name: str, subject: str) -> Pair:
        client = issue(ours, name, subject=subject)
        directory = self._layout.root / name
        directory.mkdir(exist_ok=True)
        write_kubeconfig(directory, self._layout.api_server, ca=ours.certificate, client=client)
        return client

    def _daemon(self, program: str, *options: str) -> None:
        command = [*in_control_plane(self._layout), str(self._layout.programs / program), *options]
        start(self._layout, CONTROL_PLANE, program, command)


@contextmanager
def restarted(layout: Layout, program: str) -> Iterator[None]:
    """Meanwhile it does not run."""
    pid, command = next(_running(program))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not any(_running(program)), f"{program} has ended", patience=_PATIENCE)
    yield
    start(layout, CONTROL_PLANE, program, [*in_control_plane(layout), *command])


def _running(program: str) -> Iterator[tuple[int, list[str]]]:
    """Pids and command lines."""
    for pid in cgroups.processes(CONTROL_PLANE):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        if command and command[0].endswith(f"/{program}"):
            yield pid, command


def serves(layout: Layout) -> bool:
    """Whether the API server is ready."""
    try:
        return kubectl(layout, "get", "--raw", "/readyz", seconds=10) == "ok"
    except (TestbedError, subprocess.TimeoutExpired):
        return False


def kubectl(layout: Layout, *arguments: str, stdin: str | None = None, seconds: float = 120) -> str:
    """As the administrator, from the control plane's network."""
    program = [str(layout.programs / "kubectl"), f"--kubeconfig={layout.kubeconfig}"]
    return run([*in_control_plane(layout), *program, *arguments], stdin=stdin, seconds=seconds)


def pod_cidrs(layout: Layout, node: Node) -> list[str]:
    """Of each family; none before a controller has given them."""
    cidrs = "jsonpath={.spec.podCIDRs[*]}"
    return kubectl(layout, "get", "node", node.name, "--ignore-not-found", "-o", cidrs).split()
