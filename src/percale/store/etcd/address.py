"""Store addresses: `etcd:https://10.0.0.1:2379,https://10.0.0.2:2379?prefix=/coreos.com/network&ca=…`. Read by `store.py`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from percale.errors import BadConfig
from percale.store.address_options import address_options

FORM = "etcd:http[s]://HOST:PORT[,…][?prefix=/PATH&ca=FILE&cert=FILE&key=FILE&user=NAME&password-file=FILE]"
_PREFIX = "/coreos.com/network"


class Address(Struct, frozen=True, kw_only=True, rename={"password_file": "password-file"}):
    """The members of a cluster, and how to speak to them."""

    endpoints: tuple[str, ...]
    prefix: str = _PREFIX
    """flannel's `--etcd-prefix`."""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    password_file: Path | None = None


def parse_address(rest: str) -> Address:
    """What comes after `etcd:`. Raises BadConfig."""
    members, _, query = rest.partition("?")
    endpoints = tuple(map(_endpoint, members.split(",")))
    known = [field.encode_name for field in msgspec.structs.fields(Address) if field.name != "endpoints"]
    options = address_options(query, known, FORM)
    address: Address = msgspec.convert({"endpoints": endpoints, **options}, Address, dec_hook=_from_text)
    if not address.prefix.startswith("/") or not address.prefix.strip("/"):
        raise _bad(f'prefix "{address.prefix}" is no path', f"write one such as {_PREFIX}")
    if (address.cert is None) != (address.key is None):
        raise _bad("a client certificate needs both cert and key")
    if (address.user is None) != (address.password_file is None):
        raise _bad("a user needs both user and password-file")
    return msgspec.structs.replace(address, prefix=address.prefix.rstrip("/"))


def _endpoint(text: str) -> str:
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0 and url.path in ("", "/")
    except ValueError:
        usable = False
    if not usable or url.username or url.query or url.fragment:
        raise _bad(f'"{text}" is no endpoint')
    return text.rstrip("/")


def _from_text(kind: type, text: object) -> object:
    return kind(text)


def _bad(what: str, hint: str | None = None) -> BadConfig:
    return BadConfig(what, where="store", hint=hint or f"write {FORM}")
