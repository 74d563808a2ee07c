"""A real kube-apiserver on a real etcd, built by scripts/kubernetes-binaries. `make test-cluster` says where they are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.certificates import Pair, authority, issue, rsa_key
from tests.waiting import until

_GIVEN = os.environ.get("KUBERNETES_BINARIES")
BINARIES = Path(_GIVEN) if _GIVEN else None
"""None: this run is without them."""
ADMIN, AGENT = "admin-token", "agent-token"
"""Tokens: of an administrator, and of the user `percale`, who has no rights."""
_START = 120.0
"""Seconds; 2 on an idle machine."""
_AUDITED = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}
"""Every request of a service account."""


def write_kubeconfig(
    directory: Path, server: str, token: str | None = None, *, ca: Path | None = None, client: Pair | None = None
) -> Path:
    """For one user of one server."""
    cluster = {"server": server, **({"certificate-authority": str(ca)} if ca is not None else {})}
    user = {"token": token} if token is not None else {}
    if client is not None:
        user |= {"client-certificate": str(client.certificate), "client-key": str(client.key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path = directory / "kubeconfig"
    path.write_text(json.dumps(document))
    return path


@dataclass
class KubeApiServer:
    """In the network namespace of `prefix`."""

    directory: Path
    host: str
    prefix: tuple[str, ...]
    authority: Pair
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://{self.host}:6443"

    def kubeconfig(self, name: str, token: str | None = ADMIN, client: Pair | None = None) -> Path:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        return write_kubeconfig(directory, self.url, token, ca=self.authority.certificate, client=client)

    @property
    def address(self) -> str:
        """As a store, with all rights."""
        return f"kubernetes:{self.kubeconfig('admin')}"

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        command = [*self.prefix, str(program("kubectl")), "--kubeconfig", str(self.kubeconfig("admin")), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def requests(self, account: str) -> set[tuple[str, str, str]]:
        """API group, resource and verb of all that a service account has asked for so far."""
        found = set()
        for line in (self.directory / "audit.log").read_text().splitlines():
            request = json.loads(line)
            if request["user"]["username"] == f"system:serviceaccount:{account}":
                what = request["objectRef"]
                resource = "/".join(filter(None, (what["resource"], what.get("subresource"))))
                found.add((what.get("apiGroup", ""), resource, request["verb"]))
        return found

    def stop(self) -> None:
        """The API server alone; etcd keeps the objects."""
        if self.process is not None:
            _end(self.process)

    def start(self) -> None:
        """Returns once it serves."""
        files = self.directory
        process = self.process = _start(
            self.prefix,
            files / "apiserver.log",
            *(str(program("kube-apiserver")), "--etcd-servers=http://127.0.0.1:2379", "--authorization-mode=RBAC"),
            *(
                "--service-cluster-ip-range=10.96.0.0/16",
                "--allow-privileged=true",
                "--bind-address=0.0.0.0",
                "--advertise-address=192.0.2.1",
            ),
            f"--service-account-issuer={self.url}",
            *(f"--service-account-{use}-file={files / 'accounts.key'}" for use in ("key", "signing-key")),
            f"--tls-cert-file={files / 'server.crt'}",
            f"--tls-private-key-file={files / 'server.key'}",
            f"--client-ca-file={self.authority.certificate}",
            f"--token-auth-file={files / 'tokens.csv'}",
            "--disable-admission-plugins=ServiceAccount",  # no controller makes them
            f"--audit-policy-file={files / 'audit.json'}",
            f"--audit-log-path={files / 'audit.log'}",
        )

        def serves() -> bool:
            assert process.poll() is None, (files / "apiserver.log").read_text()[-3000:]
            command = [*self.prefix, "curl", "-sk", "--max-time", "2", "-H", f"Authorization: Bearer {ADMIN}"]
            done = subprocess.run([*command, f"{self.url}/readyz"], capture_output=True, text=True, check=False)
            return done.stdout == "ok"

        until(serves, "the API server is ready", patience=_START)


@contextmanager
def running(directory: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> Iterator[KubeApiServer]:
    """Serves at this address until the end; its own control, without controllers and kubelets."""
    server = KubeApiServer(directory, host, prefix, authority(directory))
    issue(server.authority, "server", subject="/CN=kube-apiserver", serves=[f"IP:{host}"])
    rsa_key(directory / "accounts.key")
    (directory / "audit.json").write_text(json.dumps(_AUDITED))
    (directory / "tokens.csv").write_text(f'{ADMIN},admin,1,"system:masters"\n{AGENT},percale,2\n')
    etcd = _start(
        prefix,
        directory / "etcd.log",
        *(str(program("etcd")), f"--data-dir={directory / 'etcd'}", "--unsafe-no-fsync"),
        *("--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379"),
        *("--listen-peer-urls=http://127.0.0.1:2380", "--log-level=error"),
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()
        _end(etcd)


def _end(process: subprocess.Popen[bytes]) -> None:
    """At once: an API server that is asked to end waits for its watches."""
    process.kill()
    process.wait()


def program(name: str) -> Path:
    """One of the built programs."""
    assert BINARIES is not None, "set KUBERNETES_BINARIES, as `make test-cluster` does"
    return BINARIES / name


def _start(prefix: tuple[str, ...], log: Path, *command: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen([*prefix, *command], stdout=output, stderr=output, stdin=subprocess.DEVNULL)
