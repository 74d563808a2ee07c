"""No secret is left in what `percale support` writes, and nothing else is taken out."""

from __future__ import annotations

import time
from base64 import b64encode

import pytest

from percale.checks.redaction import REDACTED, redacted

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl-_x"


@pytest.mark.parametrize(
    "text",
    [
        '"password": "hunter2!"',
        "password: hunter2!",
        "PERCALE_TOKEN=hunter2!",
        '"PSK":"hunter2!"',
        "preSharedKey: 'hunter2!'",
        '{"bgpPassword": "hunter2!", "asn": 65000}',
        "client-key-data: hunter2!",
        "etcd --password hunter2!",
        "https://root:hunter2!@10.0.0.1:2379",
        "Authorization: Bearer hunter2!hunter2!".replace("!", "x"),
        f"token in a log {JWT} hunter2!".replace(" hunter2!", ""),
        "-----BEGIN EC PRIVATE KEY-----\nhunter2!\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nhunter2!",
    ],
)
def test_what_looks_like_a_secret(text: str) -> None:
    found = redacted(f"before\n{text}\nafter")
    assert "hunter2" not in found
    assert JWT not in found
    assert REDACTED in found
    assert found.startswith("before\n")


@pytest.mark.parametrize(
    "text",
    [
        '"public": "key"',
        "np:default/allow-web#ingress[0]",
        "10.244.1.0/24 via 10.244.1.0 dev flannel.1 proto 112 onlink",
        '"PublicKey":"jXH0ckNlGJCfGbnSjVXj6n3nVQb4gHj4IlOJZUw5YkM="',
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "https://10.0.0.1:2379,https://10.0.0.2:2379",
        "tcp sport 22 accept comment a basic rule",
    ],
)
def test_what_is_none(text: str) -> None:
    assert redacted(text) == text


def test_known_ones_wherever_they_are() -> None:
    key = bytes(range(32))
    text = f"a line with {b64encode(key).decode()} and with s3cr3t-value."
    assert redacted(text, [b64encode(key), b"s3cr3t-value\n", b"a"]) == f"a line with {REDACTED} and with {REDACTED}."


@pytest.mark.parametrize(
    "text", ["a." * 500_000, "x" * 1_000_000, "token" * 200_000, "-----BEGIN PRIVATE KEY" * 50_000]
)
def test_a_long_log_takes_no_long_time(text: str) -> None:
    begun = time.process_time()
    redacted(text)
    assert time.process_time() - begun < 5
