"""The proxy for a URL, by the environment: HTTPS_PROXY, HTTP_PROXY, NO_PROXY, in either case."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """As Go programs choose it; NO_PROXY may contain networks (`10.0.0.0/8`)."""
    parts = urlsplit(url)
    proxy = _variable(environ, f"{parts.scheme}_proxy")
    host = parts.hostname or ""
    if not proxy or host == "localhost" or _is_loopback(host):
        return None
    excluded = [word.strip() for word in _variable(environ, "no_proxy").split(",") if word.strip()]
    if any(_covers(each, host, parts.port) for each in excluded):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name.upper()) or environ.get(name) or ""


def _covers(excluded: str, host: str, port: int | None) -> bool:
    if excluded == "*":
        return True
    try:
        return ip_address(host) in ip_network(excluded, strict=False)
    except ValueError:
        pass
    name, colon, number = excluded.rpartition(":")
    if colon and number.isdecimal():
        excluded = name
        if int(number) != port:
            return False
    domain = excluded.lower().removeprefix("*").removeprefix(".")
    exact = not excluded.startswith((".", "*"))
    return (exact and host == domain) or host.endswith(f".{domain}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
