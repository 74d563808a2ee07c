"""The CNI operations: each one's effect for a parsed request, and its result. Called by `server.py`; see `attachments.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_interface
from typing import Any

import msgspec
from msgspec import Struct

from percale.cni.attachments import Attachments, AttachRequest
from percale.cni.pod_netns import is_foreign_namespace
from percale.cni.records import Attachment
from percale.cni.requests import Request, requested_addresses, requested_limits, requested_mac, requested_ports
from percale.cni.results import (
    BAD_CONFIGURATION,
    BAD_ENVIRONMENT,
    CHECK_FAILED,
    LIMITED,
    NOT_AVAILABLE,
    TRY_AGAIN,
    UNKNOWN_CONTAINER,
    CniError,
    Device,
    GivenAddress,
    Result,
    after,
    as_cni_error,
    result,
)
from percale.ipam.address_pool import Owner
from percale.model.addresses import IPInterface
from percale.model.ip_family import Family
from percale.render.network.pod_veth import HOST_MAC, PodWires, gateway_of

Annotations = Callable[[str, str], Awaitable[Mapping[str, str]]]
"""The annotations of the pod of this namespace and name, {} when it is not known. May raise StoreError."""


class Unready(Struct, frozen=True):
    """Why the node cannot attach pods now (STATUS 50); `limited`: running ones may not be reachable either (51)."""

    reason: str
    limited: bool = False


class Operations:
    """Answers requests; all methods raise PercaleError."""

    def __init__(self, attachments: Attachments, annotations: Annotations, ready: Callable[[], Unready | None]) -> None:
        self._attachments = attachments
        self._annotations = annotations
        self._ready = ready

    async def answer(self, request: Request, namespace: int | None) -> Result | None:
        """The result, if any; `namespace` is the pod's open descriptor, None when there was nothing to open."""
        match request.verb:
            case "ADD":
                return await self._add(request, namespace)
            case "DEL":
                async with self._attachments.exclusively(request.attachment):
                    await self._attachments.detach(request.attachment)
            case "CHECK":
                await self._check(request, namespace)
            case "STATUS":
                self._status()
            case "GC":
                await self._gc(request)
        return None

    # ADD

    async def _add(self, request: Request, namespace: int | None) -> Result:
        descriptor = _pod_namespace(request, namespace)
        chained = _wired_by_chain(request)
        if chained is not None:
            async with self._attachments.exclusively(request.attachment):
                await self._attachments.register(chained)
            assert request.configuration.previous is not None
            return request.configuration.previous
        unready = self._ready()
        if unready is not None and not unready.limited:
            raise CniError(TRY_AGAIN, f"the node cannot take pods yet: {unready.reason}")
        asked = await self._attach_request(request)
        async with self._attachments.exclusively(request.attachment):
            attachment = await self._attachments.attach(asked, descriptor)
        ours = _result(attachment)
        previous = request.configuration.previous
        return ours if previous is None else after(previous, ours)

    async def _attach_request(self, request: Request) -> AttachRequest:
        runtime = request.runtime
        annotations: Mapping[str, str] = runtime.annotations or {}
        if request.pod is not None and not runtime.ips and runtime.annotations is None:
            annotations = await self._annotations(request.pod.namespace, request.pod.name)
        ingress, egress = requested_limits(runtime)
        return AttachRequest(
            owner=request.attachment,
            network=request.configuration.name,
            netns=request.netns or "",
            pod=request.pod,
            addresses=requested_addresses(request, annotations),
            annotations=annotations,
            mac=requested_mac(runtime),
            mtu=request.configuration.mtu,
            wiring=request.configuration.wiring,
            ingress=ingress,
            egress=egress,
            ports=requested_ports(runtime),
        )

    # The others

    async def _check(self, request: Request, namespace: int | None) -> None:
        attachment = self._attachments.find(request.attachment)
        if attachment is None:
            raise CniError(
                UNKNOWN_CONTAINER,
                f"{request.attachment} is not known here",
                hint="its ADD did not succeed, or a DEL did",
            )
        previous = request.configuration.previous
        if previous is None:
            raise CniError(BAD_CONFIGURATION, "CHECK needs the prevResult of the ADD")
        given = {given.address for given in _given(previous)}
        if lost := [str(address) for address in attachment.wires.addresses if address not in given]:
            raise CniError(CHECK_FAILED, f"{attachment} has {', '.join(lost)}, prevResult has not")
        async with self._attachments.exclusively(request.attachment):
            missing = await self._attachments.check(attachment, _pod_namespace(request, namespace))
        if missing:
            raise CniError(
                CHECK_FAILED, f"{attachment}: its wires are not as they were made", details="; ".join(missing)
            )

    def _status(self) -> None:
        unready = self._ready()
        if unready is not None:
            raise CniError(LIMITED if unready.limited else NOT_AVAILABLE, unready.reason)

    async def _gc(self, request: Request) -> None:
        valid = request.configuration.valid
        if valid is None:
            raise CniError(BAD_CONFIGURATION, "GC needs cni.dev/valid-attachments in the configuration")
        kept = {Owner(each.containerID, each.ifname) for each in valid}
        problems = await self._attachments.keep_only(request.configuration.name, kept)
        if problems:
            raise CniError(as_cni_error(problems[0]).code, "; ".join(map(str, problems)))


def _pod_namespace(request: Request, namespace: int | None) -> int:
    if namespace is None:
        raise CniError(BAD_ENVIRONMENT, f"CNI_NETNS {request.netns} cannot be opened")
    if not is_foreign_namespace(namespace):
        raise CniError(BAD_ENVIRONMENT, f"CNI_NETNS {request.netns} is not a network namespace of a pod")
    return namespace


def _result(attachment: Attachment) -> Result:
    """The result of our plugin: the bridge if there is one, the host's device, the pod's."""
    wires = attachment.wires
    host = Device(wires.device, None if wires.bridge is not None else HOST_MAC, wires.mtu)
    pod = Device(wires.ifname, wires.mac, wires.mtu, attachment.netns)
    devices = [host, pod] if wires.bridge is None else [Device(wires.bridge), host, pod]
    addresses = [GivenAddress(each, gateway_of(wires, each), len(devices) - 1) for each in wires.addresses]
    routes = {Family(each.version).everything: gateway_of(wires, each) for each in wires.addresses}
    return result(devices, addresses, routes)


# Results of earlier plugins of the chain


class _PreviousInterface(msgspec.Struct, frozen=True):
    name: str
    sandbox: str = ""
    mac: str = ""
    mtu: int = 0


class _PreviousAddress(msgspec.Struct, frozen=True):
    address: str
    interface: int | None = None


class _Previous(msgspec.Struct, frozen=True):
    interfaces: tuple[_PreviousInterface, ...] = ()
    ips: tuple[_PreviousAddress, ...] = ()


class _Given(Struct, frozen=True):
    address: IPInterface
    interface: int | None


def _decode_previous(previous: Mapping[str, Any]) -> _Previous:
    try:
        return msgspec.convert(previous, _Previous)
    except msgspec.ValidationError as error:
        raise CniError(BAD_CONFIGURATION, f"prevResult: {error}") from error


def _given(previous: Mapping[str, Any]) -> list[_Given]:
    try:
        return [_Given(ip_interface(each.address), each.interface) for each in _decode_previous(previous).ips]
    except ValueError as error:
        raise CniError(BAD_CONFIGURATION, f"prevResult: {error}") from error


def _wired_by_chain(request: Request) -> Attachment | None:
    """The attachment made by an earlier plugin: the requested interface, in a sandbox. None when it is left to us."""
    previous = request.configuration.previous
    if previous is None:
        return None
    for position, interface in enumerate(_decode_previous(previous).interfaces):
        if interface.sandbox and interface.name == request.attachment.ifname:
            addresses = [each.address for each in _given(previous) if each.interface in (None, position)]
            wires = PodWires(*request.attachment, mac=interface.mac, mtu=interface.mtu, addresses=tuple(addresses))
            name, netns = request.configuration.name, request.netns or ""
            ports = requested_ports(request.runtime)
            return Attachment(request.attachment, name, netns, wires, request.pod, chained=True, ports=ports)
    return None
