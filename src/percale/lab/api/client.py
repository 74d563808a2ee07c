"""Client of the lab's API: one JSON request, one JSON answer, over control.sock. `server.py` is the other side.

Called by cli/lab/. It imports next to nothing, so that a verb costs little more than Python's own start.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from percale import errors
from percale.errors import BadManifest, BadManifests, LabError, PercaleError
from percale.lab.commands import default_lab
from percale.lab.run_dir import LabDir, require_running

_TIMEOUT = 120.0
"""Seconds; every verb is far faster."""


def ask(lab_dir: LabDir, verb: str, **arguments: Any) -> dict[str, Any]:
    """The lab's answer. Raises NoSuchLab, or the error that the lab answers with."""
    require_running(lab_dir)
    request = json.dumps({"verb": verb, "default_lab": default_lab(), **arguments}).encode() + b"\n"
    try:
        answer = json.loads(_exchange(lab_dir, request))
    except OSError as error:
        raise LabError(f"the lab {lab_dir.name} does not answer ({error})", hint=f"look at {lab_dir.log}") from error
    except json.JSONDecodeError as error:
        raise LabError(f"the lab {lab_dir.name} ended before it answered", hint=f"look at {lab_dir.log}") from error
    if "errors" in answer:
        raise _as_error(answer["type"], answer["errors"])
    content: dict[str, Any] = answer["content"]
    return content


def get_objects(
    lab_dir: LabDir,
    wanted: Sequence[dict[str, Any]],
    namespace: str | None = None,
    *,
    everywhere: bool = False,
    wide: bool = False,
    selector: str | None = None,
    after: int | None = None,
    patience: float = 20.0,
) -> dict[str, Any]:
    """Objects of these kinds and names. With `after`, an earlier answer's revision: once something has changed since.

    `patience` is in seconds; then the answer comes although nothing has changed.
    """
    return ask(
        lab_dir,
        "get",
        wanted=wanted,
        namespace=namespace,
        everywhere=everywhere,
        wide=wide,
        selector=selector or "",
        after=None if after is None else {"revision": after, "patience": patience},
    )


def _exchange(lab_dir: LabDir, request: bytes) -> bytes:
    """Connects through a descriptor of the directory: a socket's path is limited to 107 bytes, a lab's is not."""
    directory = os.open(lab_dir.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(_TIMEOUT)
            channel.connect(f"/proc/self/fd/{directory}/{lab_dir.control.name}")
            channel.sendall(request)
            with channel.makefile("rb") as answer:
                return answer.read()
    finally:
        os.close(directory)


def _as_error(type_name: str, parts: Sequence[dict[str, Any]]) -> PercaleError:
    """The same error, as far as it can be made of its parts; else a LabError."""
    if type_name == BadManifests.__name__:
        return BadManifests(BadManifest(**each) for each in parts)
    error_type = getattr(errors, type_name, LabError)
    if not (isinstance(error_type, type) and issubclass(error_type, PercaleError)) or error_type in (
        errors.KernelError,
        errors.AlreadyRunning,
    ):
        error_type = LabError
    return error_type(**parts[0])
