"""An agent's start does not read the system's certificate authorities: only a connection with TLS needs them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import os, ssl
from percale.store.http_library import aiohttp
from aiohttp import connector
print(connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509_ca"])
print(os.environ.get("SSL_CERT_FILE"), "SSL_CERT_DIR" in os.environ)
print(len(ssl.create_default_context().get_ca_certs()) > 0)
"""


@pytest.mark.parametrize("given", [None, "/etc/ssl/certs/ca-certificates.crt"])
def test_they_are_read_by_those_who_ask_for_them(given: str | None) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SSL_")}
    if given is not None:
        environ["SSL_CERT_FILE"] = given
    done = subprocess.run([sys.executable, "-c", _PROGRAM], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", str(given), "False", "True"]
