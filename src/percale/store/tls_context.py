"""A client's TLS context of files, made again when one of them is replaced. Used by the stores that are servers."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from percale.bounded_file import read_file
from percale.errors import StoreUnavailable

Pem: TypeAlias = Path | bytes
"""A file, which may be replaced at any time, or its content."""


class TlsContext:
    """For one event loop. Files are compared by their status at each request: that costs microseconds."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None
        self._made_of: object = None

    def forget(self) -> None:
        """The server does not accept it: make another one of the same files."""
        self._made_of = None

    def of(self, ca: Pem | None, certificate: Pem | None, key: Pem | None, *, verify: bool = True) -> ssl.SSLContext:
        """A new context when a certificate, a key or the authority has changed. Raises StoreUnavailable."""
        made_of = tuple(map(_identity, (ca, certificate, key)))
        if self._context is None or made_of != self._made_of:
            self._context = _made(ca, certificate, key, verify=verify)
            self._made_of = made_of
        return self._context


def read_credential(path: Path) -> bytes:
    """Raises StoreUnavailable."""
    try:
        return read_file(path)
    except OSError as error:
        raise StoreUnavailable(f"cannot be read: {error.strerror}", where=str(path)) from error


def _made(ca: Pem | None, certificate: Pem | None, key: Pem | None, *, verify: bool) -> ssl.SSLContext:
    try:
        authorities = (read_credential(ca) if isinstance(ca, Path) else ca).decode() if ca is not None else None
        context = ssl.create_default_context(cadata=authorities)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate is not None:
            with _file(certificate) as chain, _file(key if key is not None else certificate) as secret:
                context.load_cert_chain(chain, secret)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; authorities that are no text are a ValueError
        names = [str(each) for each in (ca, certificate, key) if isinstance(each, Path)]
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise StoreUnavailable(f"certificates cannot be used: {reason}", where=", ".join(names) or None) from error
    return context


def _identity(pem: Pem | None) -> object:
    """Changes when the file is replaced. Raises StoreUnavailable."""
    if not isinstance(pem, Path):
        return pem
    try:
        status = pem.stat()
    except OSError as error:
        raise StoreUnavailable(f"cannot be read: {error.strerror}", where=str(pem)) from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _file(pem: Pem) -> Iterator[str]:
    """A path for OpenSSL, which loads keys from files only; inline ones never reach a disk."""
    if isinstance(pem, Path):
        yield str(pem)
        return
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
