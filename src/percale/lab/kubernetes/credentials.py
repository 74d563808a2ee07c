"""The keys, certificates and kubeconfigs of a lab with Kubernetes, made by openssl, for the lab's owner only.

kubernetes/authority.crt ── signs ─▶ kube-apiserver  admin  kube-controller-manager  kube-scheduler  percale
kubeconfig     of `admin`, at the loopback address outside the lab
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from percale.errors import LabError

AGENT = "percale"
"""The user of the agents: no more rights than they need."""
KUBELET = "kubelet"
_USERS = {
    "admin": "/O=system:masters/CN=admin",
    "kube-controller-manager": "/O=system:masters/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    AGENT: f"/CN={AGENT}",
}
_SERVER = "kube-apiserver"
_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
_DAYS = "3650"


class Credentials(Struct, frozen=True):
    """The paths in this directory."""

    directory: Path

    @property
    def authority(self) -> Path:
        return self.certificate("authority")

    @property
    def accounts_key(self) -> Path:
        """Signs the tokens of service accounts."""
        return self.key("accounts")

    def certificate(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def kubeconfig(self, user: str) -> Path:
        return self.directory / f"{user}.kubeconfig"

    def write(self, server: str, addresses: Iterable[str]) -> None:
        """All of them; `server` is the API server's URL inside the lab, `addresses` where it is reached. Raises LabError."""
        self.directory.mkdir(mode=0o700)
        _certificate(self, "authority", "/CN=percale-lab", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(self.accounts_key))
        names = ",".join([*(f"DNS:{name}" for name in _NAMES), *(f"IP:{address}" for address in addresses)])
        self._issue(_SERVER, f"/CN={_SERVER}", "serverAuth,clientAuth", f"subjectAltName={names}")
        self._issue(KUBELET, f"/CN={KUBELET}", "serverAuth")
        for user, subject in _USERS.items():
            self._issue(user, subject, "clientAuth")
            self.write_kubeconfig(self.kubeconfig(user), user, server)

    def write_kubeconfig(self, path: Path, user: str, server: str, name: str = "lab") -> None:
        """A kubeconfig of this user that needs no other file; readable for the lab's owner only."""
        client = {
            "client-certificate-data": _base64(self.certificate(user)),
            "client-key-data": _base64(self.key(user)),
        }
        cluster = {"server": server, "certificate-authority-data": _base64(self.authority)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": client}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")

    def _issue(self, name: str, subject: str, usage: str, *extensions: str) -> None:
        _certificate(
            self,
            name,
            subject,
            "basicConstraints=CA:FALSE",
            "keyUsage=critical,digitalSignature",
            f"extendedKeyUsage={usage}",
            *extensions,
            signed_by="authority",
        )


def _certificate(files: Credentials, name: str, subject: str, *extensions: str, signed_by: str | None = None) -> None:
    """A key and its certificate; without `signed_by` that of an authority."""
    signer = (
        [] if signed_by is None else ["-CA", str(files.certificate(signed_by)), "-CAkey", str(files.key(signed_by))]
    )
    if signed_by is not None:
        signer += ["-config", os.devnull]  # its defaults are those of an authority
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", _DAYS),
        *("-subj", subject, "-keyout", str(files.key(name)), "-out", str(files.certificate(name)), *signer),
        *(word for extension in extensions for word in ("-addext", extension)),
    )


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()
        hint = "OpenSSL 3 or newer is needed"
        raise LabError(f"openssl {arguments[0]} failed: {reason[-1] if reason else done.returncode}", hint=hint)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
