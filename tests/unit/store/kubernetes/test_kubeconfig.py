"""Addresses, kubeconfigs and service accounts."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from percale.errors import BadConfig
from percale.store.kubernetes.address import parse_address
from percale.store.kubernetes.cluster_access import ClusterAccess, ExecPlugin
from percale.store.kubernetes.kubeconfig import from_kubeconfig, in_cluster


def written(directory: Path, user: dict[str, Any] | None = None, **cluster: Any) -> Path:
    document = {
        "current-context": "one",
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "x"}},
            {"name": "two", "context": {"cluster": "d"}},
        ],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://10.0.0.1:6443/", **cluster}},
            {"name": "d", "cluster": {"server": "https://10.0.0.2"}},
        ],
        "users": [{"name": "u", "user": user}],
    }
    path = directory / "config"
    path.write_text(json.dumps(document))
    return path


def test_the_current_context_or_another(tmp_path: Path) -> None:
    path = written(tmp_path, {"token": "t"})
    assert from_kubeconfig(path) == ClusterAccess(server="https://10.0.0.1:6443", token="t")
    assert from_kubeconfig(path, "two") == ClusterAccess(server="https://10.0.0.2")


def test_data_comes_before_files_and_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    user = {
        "client-certificate": "me.crt",
        "client-key": "/etc/me.key",
        "client-key-data": base64.b64encode(b"KEY").decode(),
        "tokenFile": "token",
    }
    access = from_kubeconfig(written(tmp_path, user, **{"certificate-authority": "ca.crt", "tls-server-name": "api"}))
    assert access.ca == tmp_path / "ca.crt"
    assert access.certificate == tmp_path / "me.crt"
    assert access.key == b"KEY"
    assert access.token == tmp_path / "token"
    assert access.server_name == "api"


def test_an_exec_plugin(tmp_path: Path) -> None:
    plugin: dict[str, Any] = {
        "apiVersion": "v",
        "command": "./get",
        "args": ["x"],
        "env": [{"name": "A", "value": "1"}],
    }
    access = from_kubeconfig(written(tmp_path, {"exec": plugin}))
    assert access.exec == ExecPlugin(apiVersion="v", command=f"{tmp_path}/get", args=("x",), env={"A": "1"})
    plugin |= {"command": "aws", "args": None, "env": None}
    access = from_kubeconfig(written(tmp_path, {"exec": plugin}))
    assert access.exec == ExecPlugin(apiVersion="v", command="aws")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a kubeconfig"),
        ("- x", "not a kubeconfig"),
        ("{", "DIR/config:1: "),
        ("apiVersion: v1", "no current-context; write kubernetes:DIR/config?context=NAME"),
        ("current-context: z\ncontexts: [{name: a}]", 'no context "z"; there is a'),
        (
            "current-context: a\ncontexts: [{name: a, context: {}}]",
            "context a: Object missing required field `cluster`",
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: x}}]",
            "cluster c: Expected `str` matching regex",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(BadConfig) as error:
        from_kubeconfig(path)
    assert said in str(error.value).replace(str(tmp_path), "DIR")


@pytest.mark.parametrize("field", ["auth-provider", "username", "as"])
def test_a_user_that_would_become_another_one_is_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(BadConfig, match=f"user u: {field} is not supported"):
        from_kubeconfig(written(tmp_path, {field: "x"}))


def test_a_missing_file_and_bad_base64(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="cannot be read: No such file"):
        from_kubeconfig(tmp_path / "none")
    with pytest.raises(BadConfig, match="client-key-data: not base64"):
        from_kubeconfig(written(tmp_path, {"client-key-data": "?"}))


def test_a_pods_service_account(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = in_cluster(environ, tmp_path)
    assert access == ClusterAccess(server="https://[fd00::1]:443", ca=tmp_path / "ca.crt", token=tmp_path / "token")
    with pytest.raises(BadConfig, match="not in a pod of a cluster: KUBERNETES_SERVICE_HOST"):
        in_cluster({}, tmp_path)
    with pytest.raises(BadConfig, match="token is missing; write kubernetes:/PATH/OF/A/KUBECONFIG"):
        in_cluster(environ, tmp_path / "none")


def test_addresses() -> None:
    assert parse_address("").kubeconfig is None
    address = parse_address("/etc/kube config?context=a%2Fb&annotation-prefix=example.org")
    assert (address.kubeconfig, address.context) == (Path("/etc/kube config"), "a/b")
    assert address.annotation_prefix == "example.org"


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("config", '"config" is not an absolute path'),
        ("/c?contex=a", 'unknown option "contex"; did you mean context'),
        ("/c?context=", "context is empty"),
        ("?context=a", "a context needs a kubeconfig"),
    ],
)
def test_wrong_addresses(rest: str, said: str) -> None:
    with pytest.raises(BadConfig) as error:
        parse_address(rest)
    assert said in str(error.value)
