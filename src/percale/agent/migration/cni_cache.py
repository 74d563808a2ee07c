"""What runtimes, host-local and flannel's plugin keep about a node's pods. Called by `from_flannel.py` and `to_flannel.py`.

results/NETWORK-CONTAINER-IFNAME   libcni: arguments and result of each ADD, of containerd, CRI-O and cnitool
networks/NETWORK/ADDRESS           host-local: whose it is, `CONTAINER\\r\\nIFNAME`
flannel/CONTAINER                  what flannel's plugin handed over to bridge; its DEL needs it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from percale.atomic_file import replace_file
from percale.bounded_file import read_regular_file
from percale.cni.conflist import conflist
from percale.cni.records import Attachment
from percale.cni.requests import parse, requested_ports
from percale.cni.results import CniError
from percale.errors import StateError
from percale.ipam.address_pool import Owner
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.manifest.json_text import decode_json
from percale.render.network.pod_veth import PodWires

_Text: TypeAlias = str


class _Interface(msgspec.Struct, frozen=True):
    name: str
    mac: str = ""
    sandbox: str = ""


class _Address(msgspec.Struct, frozen=True):
    address: str


class _Result(msgspec.Struct, frozen=True):
    interfaces: tuple[_Interface, ...] = ()
    ips: tuple[_Address, ...] = ()


class _Cached(msgspec.Struct, frozen=True, rename="camel"):
    container_id: str
    if_name: str
    network_name: str
    netns: str = ""
    cni_args: tuple[tuple[str, str], ...] = ()
    capability_args: dict[str, Any] = {}
    result: _Result = _Result()


_DECODER = msgspec.json.Decoder(_Cached)


class CachedPod(msgspec.Struct, frozen=True):
    """A pod that flannel's chain attached; `device` is the host's end of its pair."""

    path: Path
    device: str
    attachment: Attachment
    capabilities: Mapping[str, Any]


class CniState:
    """The files below `directory` of one network. Every failure raises StateError."""

    def __init__(self, directory: Path, network: str) -> None:
        self._directory = directory
        self.network = network
        self.results = directory / "results"
        self._addresses = directory / "networks" / network

    def pods(self, bridge: str, mtu: int) -> list[CachedPod]:
        """All that are attached to this bridge."""
        found = []
        for path in self._entries(self.results, f"{self.network}-*"):
            try:
                cached = decode_json(_DECODER, read_regular_file(path))
                if cached.network_name == self.network:
                    found.append(_pod(path, cached, bridge, mtu))
            except OSError as error:
                raise _unreadable(path, error) from error
            except (ValueError, CniError) as error:
                hint = "delete the pod, then this file"
                raise StateError(
                    f"not a CNI result of bridge and host-local: {error}", where=str(path), hint=hint
                ) from error
        return found

    def addresses(self) -> dict[Path, Owner]:
        """host-local's records, by file."""
        found = {}
        for path in self._entries(self._addresses, "*"):
            try:
                ip_address(path.name)
                words = read_regular_file(path).decode().split()
            except ValueError:  # its lock, and what it gave out last
                continue
            except OSError as error:
                raise _unreadable(path, error) from error
            if words:
                found[path] = Owner(words[0], words[1] if len(words) > 1 else "eth0")
        return found

    def handed_over(self, container: str) -> Path:
        """flannel's file about it."""
        return self._directory / "flannel" / container

    def address_file(self, address: IPAddress) -> Path:
        """host-local's record of it."""
        return self._addresses / str(address)

    def write(self, attachment: Attachment, delegate: Mapping[str, Any]) -> None:
        """As the pod's ADD by flannel would have left them."""
        owner = attachment.owner
        try:
            for directory in (self._addresses, self._directory / "flannel"):
                directory.mkdir(parents=True, exist_ok=True)
            for address in attachment.wires.ips:
                replace_file(self.address_file(address), f"{owner.container}\r\n{owner.ifname}".encode(), mode=0o600)
            replace_file(self.handed_over(owner.container), json.dumps(delegate).encode(), mode=0o600)
        except OSError as error:
            raise StateError(f"cannot be written: {error.strerror}", where=str(error.filename)) from error

    def _entries(self, directory: Path, pattern: str) -> Iterator[Path]:
        try:
            yield from sorted(path for path in directory.glob(pattern) if path.is_file())
        except OSError as error:
            raise _unreadable(directory, error) from error


def delegate_of(
    given: Mapping[str, Any], network: str, subnets: Mapping[IPNetwork, IPNetwork], *, mtu: int, ip_masq: bool
) -> dict[str, Any]:
    """What flannel's plugin hands over to bridge; `subnets` are this node's by the networks that they are of."""
    return {
        "cniVersion": "0.3.1",
        "name": network,
        "type": "bridge",
        "isGateway": True,
        "ipMasq": not ip_masq,
        "mtu": mtu,
        **given,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(subnet)}] for subnet in subnets.values()],
            "routes": [{"dst": str(net)} for net in subnets],
        },
    }


def _pod(path: Path, cached: _Cached, bridge: str, mtu: int) -> CachedPod:
    """Raises ValueError, CniError."""
    interfaces = cached.result.interfaces
    inside = next((each for each in interfaces if each.sandbox and each.name == cached.if_name), None)
    device = next((each for each in interfaces if not each.sandbox and each.name != bridge), None)
    if inside is None or device is None:
        raise ValueError("its result names no pair of devices")
    netns = cached.netns or inside.sandbox
    request = parse(
        {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": cached.container_id,
            "CNI_IFNAME": cached.if_name,
            "CNI_NETNS": netns,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in cached.cni_args),
        },
        json.dumps(
            {"cniVersion": "1.0.0", "name": cached.network_name, "runtimeConfig": cached.capability_args}
        ).encode(),
    )
    wires = PodWires(
        container=cached.container_id,
        ifname=cached.if_name,
        mac=inside.mac,
        mtu=mtu,
        addresses=tuple(ip_interface(each.address) for each in cached.result.ips),
        bridge=bridge,
    )
    ours = str(conflist("bridge")["name"])
    ports = requested_ports(request.runtime)
    attachment = Attachment(request.attachment, ours, netns, wires, request.pod, ports=ports)
    return CachedPod(path, device.name, attachment, cached.capability_args)


def _unreadable(path: Path, error: OSError) -> StateError:
    return StateError(f"cannot be read: {error.strerror}", where=str(path))
