"""Runs a kubeconfig's exec plugin. Called by `credentials.py`."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from percale.errors import StoreUnavailable
from percale.model.manifest.json_text import decode_json
from percale.store.kubernetes.cluster_access import ClusterAccess, ExecPlugin

_TIMEOUT = 30.0
"""Seconds."""


class ExecStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """The credentials."""

    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: datetime | None = None

    def expired(self, now: datetime | None = None) -> bool:
        """Whether new ones are due."""
        return self.expiration_timestamp is not None and self.expiration_timestamp <= (now or datetime.now(UTC))


class _ExecCredential(Struct, frozen=True):
    status: ExecStatus


_CREDENTIAL = msgspec.json.Decoder(_ExecCredential)


async def run_plugin(plugin: ExecPlugin, access: ClusterAccess) -> ExecStatus:
    """Raises StoreUnavailable."""
    info = json.dumps({"apiVersion": plugin.apiVersion, "kind": "ExecCredential", "spec": _spec(plugin, access)})
    environment = {**os.environ, **plugin.env, "KUBERNETES_EXEC_INFO": info}
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command,
            *plugin.args,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise StoreUnavailable(f"cannot be run: {error.strerror}", where=plugin.command, hint=plugin.hint) from error
    try:
        output, complaint = await asyncio.wait_for(process.communicate(), _TIMEOUT)
    except TimeoutError as error:
        raise StoreUnavailable(f"has not ended after {_TIMEOUT:.0f} s", where=plugin.command) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = (complaint.decode(errors="replace").strip().splitlines() or ["without a word"])[-1]
        raise StoreUnavailable(f"exit code {process.returncode}: {said}", where=plugin.command, hint=plugin.hint)
    try:
        return decode_json(_CREDENTIAL, output).status
    except msgspec.DecodeError as error:
        raise StoreUnavailable(f"prints no ExecCredential: {error}", where=plugin.command) from error


def _spec(plugin: ExecPlugin, access: ClusterAccess) -> dict[str, Any]:
    if not plugin.tell_cluster:
        return {"interactive": False}
    ca = access.ca.read_bytes() if isinstance(access.ca, Path) else access.ca
    cluster = {
        "server": access.server,
        "tls-server-name": access.server_name,
        "insecure-skip-tls-verify": access.insecure,
        "certificate-authority-data": base64.b64encode(ca).decode() if ca else None,
        "proxy-url": access.proxy,
    }
    return {"interactive": False, "cluster": {key: value for key, value in cluster.items() if value}}
