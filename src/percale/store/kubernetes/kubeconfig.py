"""Reads a kubeconfig, or a pod's service account. Called when the store is opened."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Struct

from percale.bounded_file import read_file
from percale.errors import BadConfig, BadManifest
from percale.model.manifest.syntax_tree import plain_value
from percale.store.kubernetes.address import Address
from percale.store.kubernetes.cluster_access import ClusterAccess, ExecPlugin
from percale.store.tls_context import Pem

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Url = Annotated[str, msgspec.Meta(pattern=r"^https?://[^/\s]+")]


class _Part(Struct, frozen=True, kw_only=True, rename="kebab"):
    """Kubeconfigs write their keys with dashes. Other tools' fields are ignored."""


class _Cluster(_Part, frozen=True):
    server: Url
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    proxy_url: Url | None = None


class _Variable(Struct, frozen=True):
    name: str
    value: str


class _Exec(Struct, frozen=True, kw_only=True, rename="camel"):
    api_version: str
    command: str
    args: tuple[str, ...] | None = None
    env: tuple[_Variable, ...] | None = None
    install_hint: str | None = None
    provide_cluster_info: bool = False


class _User(_Part, frozen=True):
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    token: str | None = None
    token_file: str | None = msgspec.field(name="tokenFile", default=None)
    exec: _Exec | None = None


class _Context(_Part, frozen=True):
    cluster: str
    user: str | None = None


_UNSUPPORTED = ("auth-provider", "username", "password", "as", "as-uid", "as-groups", "as-user-extra")
"""Fields of a user. Ignoring one would make us another user."""

T = TypeVar("T", bound=_Part)


def access_at(address: Address) -> ClusterAccess:
    """Raises BadConfig."""
    if address.kubeconfig is None:
        return in_cluster(os.environ)
    return from_kubeconfig(address.kubeconfig, address.context)


def from_kubeconfig(path: Path, context: str | None = None) -> ClusterAccess:
    """The server and user of this context, else of the current one. Raises BadConfig."""
    document = _read(path)
    chosen = context or document.get("current-context")
    if not isinstance(chosen, str) or not chosen:
        raise BadConfig("no current-context", where=str(path), hint=f"write kubernetes:{path}?context=NAME")
    found = _entry(document, "contexts", chosen, _Context, path)
    cluster = _entry(document, "clusters", found.cluster, _Cluster, path)
    user = _entry(document, "users", found.user, _User, path) if found.user else _User()
    return ClusterAccess(
        server=cluster.server.rstrip("/"),
        ca=_pem(cluster.certificate_authority, cluster.certificate_authority_data, path, "certificate-authority-data"),
        insecure=cluster.insecure_skip_tls_verify,
        server_name=cluster.tls_server_name,
        proxy=cluster.proxy_url,
        certificate=_pem(user.client_certificate, user.client_certificate_data, path, "client-certificate-data"),
        key=_pem(user.client_key, user.client_key_data, path, "client-key-data"),
        token=path.parent / user.token_file if user.token_file else user.token,
        exec=_plugin(user.exec, path) if user.exec is not None else None,
    )


def in_cluster(environ: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> ClusterAccess:
    """The access of a pod: its service account, whose token is replaced every hour or so. Raises BadConfig."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    token = directory / "token"
    if not host or not port or not token.exists():
        missing = f"{token} is missing" if host and port else "KUBERNETES_SERVICE_HOST and _PORT are not set"
        raise BadConfig(
            f"not in a pod of a cluster: {missing}", where="store", hint="write kubernetes:/PATH/OF/A/KUBECONFIG"
        )
    address = f"[{host}]" if ":" in host else host
    return ClusterAccess(server=f"https://{address}:{port}", ca=directory / "ca.crt", token=token)


def _read(path: Path) -> dict[str, Any]:
    from percale.model.manifest.yaml_reader import read_yaml  # noqa: PLC0415 -- a pod of the cluster has none

    try:
        text = read_file(path).decode("utf-8-sig")
        roots = list(read_yaml(text, str(path)))
        document = plain_value(roots[0], len(text), str(path)) if roots else None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadConfig(f"cannot be read: {reason}", where=str(path)) from error
    except BadManifest as error:
        raise BadConfig(error.what, where=error.where, hint=error.hint) from error
    if not isinstance(document, dict):
        raise BadConfig("not a kubeconfig", where=str(path), hint="it begins with `apiVersion: v1`, `kind: Config`")
    return document


def _entry(document: Mapping[str, Any], group: str, name: str, kind: type[T], path: Path) -> T:
    """The named entry of `clusters`, `contexts` or `users`. Raises BadConfig."""
    entries = document.get(group)
    known = [each for each in entries if isinstance(each, dict)] if isinstance(entries, Sequence) else []
    single, value = group.removesuffix("s"), None
    for each in known:
        if each.get("name") == name:
            value = each.get(single)
            break
    else:
        names = ", ".join(str(each.get("name")) for each in known) or "none"
        raise BadConfig(f'no {single} "{name}"', where=str(path), hint=f"there is {names}")
    where = f"{path}: {single} {name}"
    if kind is _User and isinstance(value, dict) and (unsupported := [key for key in _UNSUPPORTED if value.get(key)]):
        hint = "use a client certificate, a token or an exec plugin"
        raise BadConfig(f"{unsupported[0]} is not supported", where=where, hint=hint)
    plain = {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise BadConfig(str(error), where=where) from error


def _pem(file: str | None, data: str | None, path: Path, field: str) -> Pem | None:
    """Data takes precedence over a file; a relative path is relative to the kubeconfig."""
    if not data:
        return path.parent / file if file else None
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise BadConfig(f"{field}: not base64", where=str(path)) from error


def _plugin(plugin: _Exec, path: Path) -> ExecPlugin:
    return ExecPlugin(
        apiVersion=plugin.api_version,
        command=str(path.parent / plugin.command) if "/" in plugin.command else plugin.command,
        args=plugin.args or (),
        env={each.name: each.value for each in plugin.env or ()},
        hint=plugin.install_hint,
        tell_cluster=plugin.provide_cluster_info,
    )
