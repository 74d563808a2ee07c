"""The agent's end of `percale-cni`: a unix socket that takes one request a connection, and answers it.

    percale-cni ─▶ accept ─▶ peer allowed? ─▶ frame + namespace descriptor ─▶ operations ─▶ answer
                                                                               │
                                                   attachments ─▶ pool, records, reconciler, the pod's namespace

The agent makes one `CniServer` once it has its subnet, starts it before `reconciler.start_garbage_collection()`
(so that no pod's device counts as stale), and writes its conflist when it is ready.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from percale.cni.attachments import Allocate, Attachments, Log
from percale.cni.directory_owner import require_ours
from percale.cni.hooks import GuardTables, PodHook
from percale.cni.operations import Annotations, Operations, Unready
from percale.cni.records import Records
from percale.cni.requests import parse
from percale.cni.results import LATEST, UNEXPECTED, CniError, as_cni_error, encode_error, encode_result
from percale.cni.wire_format import Frame, answer_frame, read_frame
from percale.errors import PercaleError
from percale.ipam.address_pool import AddressPool, PodOf
from percale.kernel.reconciler.reconciler import Reconciler
from percale.render.network.pod_veth import PodDefaults
from percale.unix_socket import listen_at, peer_credentials

_REQUEST_TIMEOUT = 10.0
"""Seconds in which a whole request must have been received."""
_STOP_TIMEOUT = 10.0
_BACKLOG = 512


class CniServer:
    """Serves the CNI operations of one node."""

    def __init__(
        self,
        path: Path,
        *,
        defaults: PodDefaults,
        reconciler: Reconciler,
        guards: GuardTables,
        pool: AddressPool,
        records: Records,
        annotations: Annotations,
        allocate: Allocate | None = None,
        pod_of: PodOf = lambda _: None,
        ready: Callable[[], Unready | None],
        log: Log,
        hooks: Sequence[PodHook] = (),
        log_command: Callable[[str], None] | None = None,
        measure: Callable[[str, int, float], None] = lambda verb, code, seconds: None,
    ) -> None:
        """`path` is the socket's, `records` is `Records(state_dir / "pods")`.

        `annotations(namespace, name)` gives a pod's annotations, {} when the pod is not known; it may wait for the store a
        little, and raise StoreError. `pod_of(address)` gives the key of the pod that has the address by its object, if any.
        `allocate` is that of `Attachments`. `ready()` says what is in the way of new pods, None when nothing is: ADD and STATUS
        answer with it. `hooks` are called in this order. `log_command` gets the command line of each change in a pod's namespace
        before it is made, `measure` each answered request's verb, exit code and how long it took.
        """
        self._path = path
        self._attachments = Attachments(
            defaults,
            reconciler,
            guards,
            pool,
            records,
            log=log,
            allocate=allocate,
            pod_of=pod_of,
            hooks=hooks,
            log_command=log_command,
        )
        self._operations = Operations(self._attachments, annotations, ready)
        self._log = log
        self._measure = measure
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()

    @property
    def defaults(self) -> PodDefaults:
        """Of pods attached from now on; the agent assigns a new value when the MTU changes."""
        return self._attachments.defaults

    @defaults.setter
    def defaults(self, defaults: PodDefaults) -> None:
        self._attachments.defaults = defaults

    async def start(self) -> None:
        """Declare the host side of every recorded pod, clean up after interrupted ADDs, then serve.

        Raises StateError, KernelError (by the reconciler), OSError (the socket).
        """
        await self._attachments.restore()
        self._listener = _listen(self._path)
        self._accepting = asyncio.create_task(self._accept(self._listener), name="cni-accept")

    async def stop(self) -> None:
        """Accept no more requests, finish those in progress; pods stay as they are."""
        if self._accepting is not None and self._listener is not None:
            self._accepting.cancel()
            with suppress(asyncio.CancelledError):
                await self._accepting
            self._listener.close()
            self._path.unlink(missing_ok=True)
        if self._requests:
            _, late = await asyncio.wait(self._requests, timeout=_STOP_TIMEOUT)
            for task in late:
                task.cancel()
        await self._attachments.close()

    def heal(self, source: str) -> None:
        """The reconciler reported a problem of this source: when it is a pod whose device is gone, recreate it.

        Call it from the reconciler's `on_problem` for every source; it ignores what is not a pod's.
        """
        self._attachments.heal(source)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, say: requests in progress will release some
                self._log.warn("cannot take a CNI request", error=str(error))
                await asyncio.sleep(0.1)
                continue
            task = asyncio.create_task(self._serve(connection), name="cni-request")
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _serve(self, connection: socket.socket) -> None:
        frame = Frame()
        began = time.perf_counter()
        try:
            code, output = await self._answer(connection, frame)
            await asyncio.get_running_loop().sock_sendall(connection, answer_frame(code, output))
            self._measure(frame.variables.get("CNI_COMMAND", ""), code, time.perf_counter() - began)
        except (OSError, EOFError) as error:  # the peer is gone
            self._log.warn("a CNI request ended early", error=str(error) or "the connection was closed")
        finally:
            frame.close()
            connection.close()

    async def _answer(self, connection: socket.socket, frame: Frame) -> tuple[int, bytes]:
        version = LATEST
        try:
            _admit(connection)
            async with asyncio.timeout(_REQUEST_TIMEOUT):
                await read_frame(connection, frame)
            request = parse(frame.variables, frame.configuration)
            version = request.version
            found = await self._operations.answer(request, frame.namespace)
        except TimeoutError:
            return self._refuse(frame, CniError(UNEXPECTED, "the request was not received completely"), version)
        except PercaleError as error:
            return self._refuse(frame, as_cni_error(error), version)
        self._note(frame)
        return 0, b"" if found is None else encode_result(found, version)

    def _refuse(self, frame: Frame, error: CniError, version: str) -> tuple[int, bytes]:
        self._log.warn("cni refused", **_subject(frame), code=error.code, error=str(error))
        return 1, encode_error(error, version)

    def _note(self, frame: Frame) -> None:
        if frame.variables.get("CNI_COMMAND") != "STATUS":  # asked every few seconds
            self._log.info("cni", **_subject(frame))


def _subject(frame: Frame) -> dict[str, object]:
    variables = frame.variables
    arguments = dict(part.partition("=")[::2] for part in variables.get("CNI_ARGS", "").split(";"))
    pod = "/".join(arguments[name] for name in ("K8S_POD_NAMESPACE", "K8S_POD_NAME") if name in arguments)
    fields = {"verb": variables.get("CNI_COMMAND"), "pod": pod, "container": variables.get("CNI_CONTAINERID")}
    return {name: value for name, value in fields.items() if value}


def _listen(path: Path) -> socket.socket:
    """A socket for its owner only. Raises OSError, StateError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    require_ours(path.parent, "cni.socket")
    listener = listen_at(path, backlog=_BACKLOG, mode=0o600)
    listener.setblocking(False)
    return listener


def _admit(connection: socket.socket) -> None:
    """Only root and the agent's own user. Raises CniError."""
    pid, uid, _ = peer_credentials(connection)
    if uid not in (0, os.geteuid()):
        raise CniError(
            UNEXPECTED, f"process {pid} of user {uid} may not ask", hint="only root and the agent's own user may"
        )
