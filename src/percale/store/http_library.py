"""aiohttp, imported without the system's certificate authorities. The stores that are servers import it from here.

At its import aiohttp makes the TLS contexts of requests that bring none, and reads all authorities for each of the two: 50 ms of
CPU, a tenth of what an agent's start takes. Ours bring one of their own wherever there is TLS (`tls_context.py`).
"""

from __future__ import annotations

import os

_PLACES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""OpenSSL's variables for where the authorities are."""

_before = {name: os.environ.get(name) for name in _PLACES}
os.environ.update(dict.fromkeys(_PLACES, os.devnull))
try:
    import aiohttp
finally:
    for _name, _value in _before.items():
        if _value is None:
            del os.environ[_name]
        else:
            os.environ[_name] = _value

__all__ = ["aiohttp"]
