"""The current credentials for each request: TLS context and headers, read again when their files are replaced."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from percale.errors import StoreUnavailable
from percale.store.kubernetes.cluster_access import ClusterAccess, Pem
from percale.store.kubernetes.exec_plugin import ExecStatus, run_plugin


class Credentials:
    """For one event loop. Files are compared by their status at each request: that costs microseconds."""

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access
        self._given: ExecStatus | None = None
        """By the exec plugin."""
        self._tls: ssl.SSLContext | None = None
        self._tls_made_of: object = None

    def reject(self) -> None:
        """The server does not accept them: obtain new ones for the next request."""
        self._given = None
        self._tls_made_of = None

    async def headers(self) -> dict[str, str]:
        """Raises StoreUnavailable. Runs the exec plugin when its credentials have expired."""
        token = self._access.token
        if self._access.exec is not None:
            if self._given is None or self._given.expired():
                self._given = await run_plugin(self._access.exec, self._access)
            token = self._given.token or token
        if isinstance(token, Path):
            token = _read(token).decode(errors="replace").strip()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def tls(self) -> ssl.SSLContext | bool:
        """Call `headers` first. A new context when a certificate, a key or the authority has changed. Raises StoreUnavailable."""
        access = self._access
        if not access.server.startswith("https:"):
            return True
        certificate, key = access.certificate, access.key
        if self._given is not None and self._given.client_certificate_data and self._given.client_key_data:
            certificate, key = self._given.client_certificate_data.encode(), self._given.client_key_data.encode()
        made_of = tuple(map(_identity, (access.ca, certificate, key)))
        if self._tls is None or made_of != self._tls_made_of:
            self._tls = _context(access.ca, certificate, key, verify=not access.insecure)
            self._tls_made_of = made_of
        return self._tls


def _context(ca: Pem | None, certificate: Pem | None, key: Pem | None, *, verify: bool) -> ssl.SSLContext:
    try:
        authorities = (_read(ca) if isinstance(ca, Path) else ca).decode() if ca is not None else None
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreUnavailable(f"cannot be read: {error.strerror}", where=str(path)) from error


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
