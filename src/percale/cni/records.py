"""The attachments that survive a restart of the agent: one file each, written atomically.

    <state>/pods/<container>@<ifname>.json

A record is an ADD's last step; a DEL removes it after the devices. An address without a record belongs to an interrupted ADD.
Like the address journal, a record is not flushed to the disk: a machine that loses its power loses its pods too.
Callers: `attachments.py`; the agent, which makes the one `Records` and shows the attachments in its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct

from percale.atomic_file import replace_file
from percale.bounded_file import read_regular_file
from percale.cni.pod_netns import NamespaceId
from percale.cni.requests import KubernetesPod
from percale.errors import StateError
from percale.ipam.address_pool import Owner
from percale.model.addresses import IPAddress
from percale.model.manifest.json_text import decode_json
from percale.model.meta import ObjectKey
from percale.model.pod import Protocol
from percale.render.network.pod_veth import Limit, PodWires
from percale.render.service.host_ports import HostPort


class Attachment(Struct, frozen=True):
    """An interface of a pod in a network. `netns` is its namespace's path, as the runtime named it.

    `namespace`: which one was there at its ADD; None when the pod was taken over.
    `chained`: another plugin of the chain created the devices; we only know of them.
    """

    owner: Owner
    network: str
    netns: str
    wires: PodWires
    pod: KubernetesPod | None = None
    chained: bool = False
    ports: tuple[HostPort, ...] = ()
    namespace: NamespaceId | None = None

    def __str__(self) -> str:
        return f"pod {self.pod}" if self.pod else str(self.owner)


class _StoredPort(msgspec.Struct, frozen=True, omit_defaults=True):
    port: int
    container: int
    protocol: Protocol
    address: str | None = None


class _Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file's content."""

    network: str
    netns: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    bridge: str | None = None
    ingress: Limit | None = None
    egress: Limit | None = None
    pod: KubernetesPod | None = None
    chained: bool = False
    ports: tuple[_StoredPort, ...] = ()
    namespace: NamespaceId | None = None


_DECODER = msgspec.json.Decoder(_Stored)
_ENCODER = msgspec.json.Encoder()


class Records:
    """The attachments of this node. Every failure raises StateError and changes nothing."""

    def __init__(self, directory: Path) -> None:
        """Read what is there; files that cannot be used are `damaged`."""
        self._directory = directory
        self._attachments: dict[Owner, Attachment] = {}
        self._damaged: dict[Owner, StateError] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for path in sorted(directory.iterdir()):
                if path.suffix == ".new":
                    path.unlink()  # the agent was killed while it wrote this one
                elif path.suffix == ".json":
                    self._load(path)
        except OSError as error:
            raise self._failed("read", error) from error

    def _load(self, path: Path) -> None:
        container, _, ifname = path.stem.partition("@")
        owner = Owner(container, ifname)
        try:
            self._attachments[owner] = _attachment(owner, decode_json(_DECODER, read_regular_file(path)))
        except (OSError, ValueError) as error:
            self._damaged[owner] = StateError(
                f"damaged: {error}", where=str(path), hint="delete the pod, or remove the file once it is gone"
            )

    @property
    def attachments(self) -> Mapping[Owner, Attachment]:
        """All that can be read."""
        return MappingProxyType(self._attachments)

    def pod_addresses(self) -> list[tuple[ObjectKey, tuple[IPAddress, ...]]]:
        """The addresses of each attachment of a Kubernetes pod."""
        return [(each.pod.key, each.wires.ips) for each in self._attachments.values() if each.pod is not None]

    @property
    def damaged(self) -> Mapping[Owner, StateError]:
        """Attachments whose file cannot be used, and why."""
        return MappingProxyType(self._damaged)

    def put(self, attachment: Attachment) -> None:
        """Insert or replace."""
        path = self._path(attachment.owner)
        try:
            replace_file(path, _ENCODER.encode(_stored(attachment)), draft=path.with_suffix(".new"))
        except OSError as error:
            raise self._failed("write", error) from error
        self._attachments[attachment.owner] = attachment
        self._damaged.pop(attachment.owner, None)

    def remove(self, owner: Owner) -> None:
        """Delete it; that it is not known is no error."""
        try:
            self._path(owner).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed("write", error) from error
        self._attachments.pop(owner, None)
        self._damaged.pop(owner, None)

    def _path(self, owner: Owner) -> Path:
        return self._directory / f"{owner.container}@{owner.ifname}.json"

    def _failed(self, verb: str, error: OSError) -> StateError:
        return StateError(
            f"cannot {verb} the records of pods: {error.strerror}",
            where=str(self._directory),
            hint="the state directory must be writable and have room",
        )


def _stored(attachment: Attachment) -> _Stored:
    wires = attachment.wires
    return _Stored(
        network=attachment.network,
        netns=attachment.netns,
        mac=wires.mac,
        mtu=wires.mtu,
        addresses=tuple(map(str, wires.addresses)),
        bridge=wires.bridge,
        ingress=wires.ingress,
        egress=wires.egress,
        pod=attachment.pod,
        chained=attachment.chained,
        ports=tuple(
            _StoredPort(each.port, each.container_port, each.protocol, str(each.address) if each.address else None)
            for each in attachment.ports
        ),
        namespace=attachment.namespace,
    )


def _attachment(owner: Owner, stored: _Stored) -> Attachment:
    """Raises ValueError."""
    if not owner.ifname:
        raise ValueError("its name is not CONTAINER@IFNAME.json")
    wires = PodWires(
        container=owner.container,
        ifname=owner.ifname,
        mac=stored.mac,
        mtu=stored.mtu,
        addresses=tuple(map(ip_interface, stored.addresses)),
        bridge=stored.bridge,
        ingress=stored.ingress,
        egress=stored.egress,
    )
    ports = tuple(
        HostPort(each.port, each.container, each.protocol, ip_address(each.address) if each.address else None)
        for each in stored.ports
    )
    return Attachment(owner, stored.network, stored.netns, wires, stored.pod, stored.chained, ports, stored.namespace)
