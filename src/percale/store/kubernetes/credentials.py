"""The current credentials for each request: TLS context and headers, read again when their files are replaced."""

from __future__ import annotations

import ssl
from pathlib import Path

from percale.store.kubernetes.cluster_access import ClusterAccess
from percale.store.kubernetes.exec_plugin import ExecStatus, run_plugin
from percale.store.tls_context import TlsContext, read_credential


class Credentials:
    """For one event loop. Files are compared by their status at each request: that costs microseconds."""

    def __init__(self, access: ClusterAccess, proxy: str | None = None) -> None:
        self._access = access
        self._with_tls = any((url or "").startswith("https:") for url in (access.server, proxy))
        self._given: ExecStatus | None = None
        """By the exec plugin."""
        self._tls = TlsContext()

    def reject(self) -> None:
        """The server does not accept them: obtain new ones for the next request."""
        self._given = None
        self._tls.forget()

    async def headers(self) -> dict[str, str]:
        """Raises StoreUnavailable. Runs the exec plugin when its credentials have expired."""
        token = self._access.token
        if self._access.exec is not None:
            if self._given is None or self._given.expired():
                self._given = await run_plugin(self._access.exec, self._access)
            token = self._given.token or token
        if isinstance(token, Path):
            token = read_credential(token).decode(errors="replace").strip()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def tls(self) -> ssl.SSLContext | bool:
        """Call `headers` first. A new context when a certificate, a key or the authority has changed. Raises StoreUnavailable."""
        access = self._access
        if not self._with_tls:
            return True
        certificate, key = access.certificate, access.key
        if self._given is not None and self._given.client_certificate_data and self._given.client_key_data:
            certificate, key = self._given.client_certificate_data.encode(), self._given.client_key_data.encode()
        return self._tls.of(access.ca, certificate, key, verify=not access.insecure)
