"""HTTPS_PROXY and NO_PROXY."""

from __future__ import annotations

import pytest

from percale.store.kubernetes.proxies import proxy_for

SERVER = "https://api.example.org:6443"


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "p:1"}, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.org"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example.org"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*.example.org"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample.org"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a, api.example.org:6443"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "api.example.org:443"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
    ],
)
def test_names(environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(SERVER, environ) == proxy


def test_networks_and_loopback() -> None:
    environ = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8,fd00::1"}
    assert proxy_for("https://10.1.2.3:6443", environ) is None
    assert proxy_for("https://[fd00::1]", environ) is None
    assert proxy_for("https://11.1.2.3", environ) == "http://p:1"
    assert proxy_for("https://127.0.0.1", environ) is None
    assert proxy_for("https://localhost", environ) is None
