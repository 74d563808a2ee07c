"""What a plugin prints: results in the format of the requested version, and errors with CNI's codes. Used by `operations.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from percale.errors import AddressError, KernelError, PercaleError, StateError, StoreUnavailable
from percale.model.addresses import IPAddress, IPInterface, IPNetwork

Result: TypeAlias = Mapping[str, Any]

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = VERSIONS[-1]

INCOMPATIBLE_VERSION = 1
UNKNOWN_CONTAINER = 3
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
UNDECODABLE = 6
BAD_CONFIGURATION = 7
TRY_AGAIN = 11
NOT_AVAILABLE = 50
LIMITED = 51
NO_ADDRESS = 100
KERNEL_REFUSED = 101
CHECK_FAILED = 102
UNEXPECTED = 999
"""The specification's codes; from 100 on they are ours."""


class CniError(PercaleError):
    """A request that fails with a CNI error code."""

    def __init__(self, code: int, what: str, *, details: str = "", hint: str | None = None) -> None:
        self.code = code
        self.details = details
        super().__init__(what, hint=hint)


_CODES: tuple[tuple[type[PercaleError], int], ...] = (
    (StateError, IO_FAILURE),
    (StoreUnavailable, TRY_AGAIN),
    (AddressError, NO_ADDRESS),
    (KernelError, KERNEL_REFUSED),
)


def as_cni_error(error: PercaleError) -> CniError:
    """Any error with its CNI code."""
    if isinstance(error, CniError):
        return error
    code = next((code for kind, code in _CODES if isinstance(error, kind)), UNEXPECTED)
    return CniError(code, str(error))


def encode_error(error: CniError, version: str = LATEST) -> bytes:
    """The error object, as a runtime reads it."""
    answer = {"cniVersion": version, "code": error.code, "msg": str(error)}
    if error.details:
        answer["details"] = error.details
    return msgspec.json.encode(answer) + b"\n"


class Device(Struct, frozen=True):
    """An interface of a result; `sandbox` is the namespace's path, None on the host."""

    name: str
    mac: str | None = None
    mtu: int | None = None
    sandbox: str | None = None


class GivenAddress(Struct, frozen=True):
    """An address of a result; `device` is the position of its interface."""

    address: IPInterface
    gateway: IPAddress
    device: int


def result(
    devices: Sequence[Device], addresses: Sequence[GivenAddress], routes: Mapping[IPNetwork, IPAddress]
) -> Result:
    """A success result of the latest version."""
    return {
        "interfaces": [_interface(device) for device in devices],
        "ips": [
            {"address": str(given.address), "gateway": str(given.gateway), "interface": given.device}
            for given in addresses
        ],
        "routes": [{"dst": str(dst), "gw": str(via)} for dst, via in routes.items()],
        "dns": {},
    }


def _interface(device: Device) -> dict[str, Any]:
    fields = {"name": device.name, "mac": device.mac, "mtu": device.mtu, "sandbox": device.sandbox}
    return {name: value for name, value in fields.items() if value is not None}


def after(previous: Result, ours: Result) -> Result:
    """Our result appended to that of the earlier plugins; their interfaces keep their positions."""
    theirs = {name: previous.get(name) or [] for name in ("interfaces", "ips", "routes")}
    shift = len(theirs["interfaces"])
    ips = [{**given, "interface": given["interface"] + shift} for given in ours["ips"]]
    return {
        **previous,
        "interfaces": [*theirs["interfaces"], *ours["interfaces"]],
        "ips": [*theirs["ips"], *ips],
        "routes": [*theirs["routes"], *ours["routes"]],
        "dns": previous.get("dns") or {},
    }


def encode_result(found: Result, version: str) -> bytes:
    """The result in the requested version's format: before 1.0.0 an address names its family, before 1.1.0 there is no MTU."""
    answer = {**found, "cniVersion": version}
    if version in ("0.3.1", "0.4.0"):
        answer["ips"] = [
            {"version": "6" if ":" in given["address"] else "4", **given} for given in found.get("ips", ())
        ]
    if version != "1.1.0":
        answer["interfaces"] = [
            {name: value for name, value in interface.items() if name in ("name", "mac", "sandbox")}
            for interface in found.get("interfaces", ())
        ]
    return msgspec.json.encode(answer) + b"\n"
