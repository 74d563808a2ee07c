"""How to reach an API server, and as whom: values, read from a kubeconfig or a pod's service account."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from percale.store.tls_context import Pem


class ExecPlugin(Struct, frozen=True, kw_only=True):
    """A program that prints credentials (`ExecCredential` of client.authentication.k8s.io)."""

    apiVersion: str
    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    hint: str | None = None
    """How to install it."""
    tell_cluster: bool = False


class ClusterAccess(Struct, frozen=True, kw_only=True):
    """One server and one user."""

    server: str
    """`https://10.0.0.1:6443`, without a slash at its end."""
    ca: Pem | None = None
    """None: the system's authorities."""
    insecure: bool = False
    """The server's certificate is not verified."""
    server_name: str | None = None
    """In the server's certificate, if not that of the URL."""
    proxy: str | None = None
    certificate: Pem | None = None
    key: Pem | None = None
    token: Path | str | None = None
    exec: ExecPlugin | None = None
