"""Parses and checks requests: the CNI_ variables and the configuration become one `Request`. Called by `server.py`.

Unknown keys of a configuration are ignored; wrong types and values of ours are errors with the key's path.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Struct

from percale.cni.results import (
    BAD_CONFIGURATION,
    BAD_ENVIRONMENT,
    INCOMPATIBLE_VERSION,
    UNDECODABLE,
    VERSIONS,
    CniError,
)
from percale.ipam.address_pool import Owner
from percale.model.addresses import IPAddress
from percale.model.manifest.json_text import decode_json
from percale.model.meta import ObjectKey
from percale.model.pod import Protocol as PortProtocol
from percale.render.network.pod_veth import Limit, Wiring
from percale.render.service.host_ports import HostPort

Verb = Literal["ADD", "DEL", "CHECK", "STATUS", "GC"]
_SINCE: Mapping[str, str] = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "STATUS": (),
    "GC": (),
}
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}")
"""CNI's own form; the length is ours, for it names a file."""
_IFNAME = re.compile(r"(?!(?:\.{1,2}|lo|all|default)$)[^\s/:%\x00-\x1f]+")
"""Names the kernel accepts: `lo` exists already, the next two mean all devices, and % is a format."""
_LONGEST_IFNAME = 15
"""Bytes."""
_MAC = re.compile(r"[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}")
_PROTOCOLS: tuple[PortProtocol, ...] = get_args(PortProtocol)
_NOT_A_MAC = "00:00:00:00:00:00"
_MOST_BITS = (1 << 32) * 8 - 1
"""The kernel's bucket holds at most 4 GiB."""
MAX_HOST_PORTS = 1000
"""Of a pod: each is compared with those of the node's other pods."""
_LONGEST_BURST = 256
"""Seconds at full rate. The kernel reports a bucket as a time, and a wrong one for longer buckets."""

Bits = Annotated[int, msgspec.Meta(ge=0)]


class Bandwidth(msgspec.Struct, frozen=True):
    """`runtimeConfig.bandwidth`: bits a second and bits; 0 is no limit."""

    ingressRate: Bits = 0
    ingressBurst: Bits = 0
    egressRate: Bits = 0
    egressBurst: Bits = 0


Port = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]


class PortMapping(msgspec.Struct, frozen=True):
    """One of `runtimeConfig.portMappings`; host port 0 asks for none."""

    hostPort: Port = 0
    containerPort: Port = 0
    protocol: str = "tcp"
    hostIP: str = ""


POD_ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
"""The capability by which containerd and CRI-O tell them."""


class RuntimeConfig(msgspec.Struct, frozen=True):
    """What the runtime requests for this pod."""

    ips: tuple[str, ...] = ()
    mac: str | None = None
    bandwidth: Bandwidth | None = None
    portMappings: tuple[PortMapping, ...] = ()
    annotations: dict[str, str] | None = msgspec.field(default=None, name=POD_ANNOTATIONS)
    """The pod's. None: the runtime does not tell them."""


class ValidAttachment(msgspec.Struct, frozen=True):
    """An attachment that GC must keep."""

    containerID: str
    ifname: str


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a network configuration that we read."""

    name: str = ""
    wiring: Wiring | None = None
    mtu: Annotated[int, msgspec.Meta(ge=68, le=65535)] | None = None
    runtime: RuntimeConfig | None = msgspec.field(default=None, name="runtimeConfig")
    previous: dict[str, Any] | None = msgspec.field(default=None, name="prevResult")
    valid: tuple[ValidAttachment, ...] | None = msgspec.field(default=None, name="cni.dev/valid-attachments")


class KubernetesPod(Struct, frozen=True):
    """The pod of the sandbox, from CNI_ARGS."""

    namespace: str
    name: str
    uid: str = ""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Request(Struct, frozen=True):
    """One call of the plugin. `owner` and `netns` are None where the verb has none."""

    verb: Verb
    version: str
    configuration: Configuration
    owner: Owner | None = None
    netns: str | None = None
    pod: KubernetesPod | None = None

    @property
    def attachment(self) -> Owner:
        """Of ADD, DEL and CHECK."""
        assert self.owner is not None
        return self.owner

    @property
    def runtime(self) -> RuntimeConfig:
        return self.configuration.runtime or RuntimeConfig()


def parse(variables: Mapping[str, str], configuration: bytes) -> Request:
    """The request. Raises CniError."""
    verb = variables.get("CNI_COMMAND", "")
    needs = _NEEDS.get(verb)
    if needs is None:
        raise CniError(BAD_ENVIRONMENT, f"CNI_COMMAND is {verb!r}", hint="it must be ADD, DEL, CHECK, STATUS or GC")
    if missing := [name for name in needs if not variables.get(name)]:
        raise CniError(BAD_ENVIRONMENT, f"{verb} needs {' and '.join(missing)} in the environment")
    decoded = _decode(configuration)
    version = requested_version(decoded)
    if VERSIONS.index(version) < VERSIONS.index(_SINCE.get(verb, VERSIONS[0])):
        raise CniError(INCOMPATIBLE_VERSION, f"{verb} needs cniVersion {_SINCE[verb]} or newer, this is {version}")
    try:
        checked = msgspec.convert(_with_known_names(decoded), Configuration)
    except msgspec.ValidationError as error:
        raise CniError(BAD_CONFIGURATION, f"invalid network configuration: {error}") from error
    if not checked.name:
        raise CniError(BAD_CONFIGURATION, "the network configuration has no name")
    owner = _owner(variables) if "CNI_IFNAME" in needs else None
    pod = _pod(variables.get("CNI_ARGS", ""))
    return Request(verb, version, checked, owner, variables.get("CNI_NETNS") or None, pod)  # type: ignore[arg-type]


_CONFIGURATION = msgspec.json.Decoder(dict[str, Any])


def _decode(configuration: bytes) -> dict[str, Any]:
    try:
        return decode_json(_CONFIGURATION, configuration)
    except msgspec.DecodeError as error:
        raise CniError(UNDECODABLE, f"the network configuration is not a JSON object: {error}") from error


_NAMES = {name.lower(): name for each in (PortMapping, Bandwidth) for name in each.__struct_fields__}


def _with_known_names(decoded: dict[str, Any]) -> dict[str, Any]:
    """containerd writes HostPort and IngressRate: for Go, so for the reference plugins, case is nothing."""
    runtime = decoded.get("runtimeConfig")
    if not isinstance(runtime, dict):
        return decoded
    renamed = {key: _renamed(runtime[key]) for key in ("bandwidth", "portMappings") if key in runtime}
    return {**decoded, "runtimeConfig": {**runtime, **renamed}}


def _renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renamed(each) for each in value]
    return {_NAMES.get(key.lower(), key): each for key, each in value.items()} if isinstance(value, dict) else value


def requested_version(decoded: Mapping[str, Any]) -> str:
    """The runtime's CNI version. Raises CniError for an unsupported one."""
    version = decoded.get("cniVersion", "0.1.0")
    if version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION, f"cniVersion {version} is not supported", hint=f"supported: {', '.join(VERSIONS)}"
        )
    return str(version)


def _owner(variables: Mapping[str, str]) -> Owner:
    container, ifname = variables["CNI_CONTAINERID"], variables["CNI_IFNAME"]
    if _CONTAINER.fullmatch(container) is None:
        raise CniError(BAD_ENVIRONMENT, f"CNI_CONTAINERID {container!r} is not a container id")
    if _IFNAME.fullmatch(ifname) is None or len(ifname.encode()) > _LONGEST_IFNAME:
        raise CniError(BAD_ENVIRONMENT, f"CNI_IFNAME {ifname!r} cannot be a device's name")
    return Owner(container, ifname)


def _pod(arguments: str) -> KubernetesPod | None:
    pairs = dict(_pair(part) for part in arguments.split(";") if part)
    namespace, name = pairs.get("K8S_POD_NAMESPACE"), pairs.get("K8S_POD_NAME")
    return KubernetesPod(namespace, name, pairs.get("K8S_POD_UID", "")) if namespace and name else None


def _pair(part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals:
        raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS holds {part!r}, which is not KEY=VALUE")
    return key, value


def requested_addresses(request: Request, annotations: Mapping[str, str]) -> tuple[IPAddress, ...]:
    """The addresses that the runtime or the pod's annotation requests; the runtime has precedence. Raises CniError."""
    where, texts = "runtimeConfig.ips", request.runtime.ips
    if not texts and ANNOTATION in annotations:
        where = f"annotation {ANNOTATION} of pod {request.pod}"
        texts = tuple(part.strip() for part in annotations[ANNOTATION].split(",") if part.strip())
    elif not texts and CALICO_ANNOTATION in annotations:
        where = f"annotation {CALICO_ANNOTATION} of pod {request.pod}"
        try:
            texts = decode_json(_TEXTS, annotations[CALICO_ANNOTATION].encode())
        except msgspec.DecodeError as error:
            raise CniError(BAD_CONFIGURATION, f"{where}: {error}", hint='write ["ADDRESS"]') from error
    try:
        return tuple(ip_interface(text).ip for text in texts)
    except ValueError as error:
        raise CniError(BAD_CONFIGURATION, f"{where}: {error}", hint="addresses, separated by commas") from error


ANNOTATION = "percale.io/ips"
"""Of a pod: its requested addresses, separated by commas."""
CALICO_ANNOTATION = "cni.projectcalico.org/ipAddrs"
"""The same as a JSON list."""
_TEXTS: msgspec.json.Decoder[tuple[str, ...]] = msgspec.json.Decoder(tuple[str, ...])


def requested_mac(runtime: RuntimeConfig) -> str | None:
    """The MAC that the runtime requests. Raises CniError."""
    if runtime.mac is None:
        return None
    if _MAC.fullmatch(runtime.mac) is None or runtime.mac == _NOT_A_MAC:
        raise CniError(BAD_CONFIGURATION, f"runtimeConfig.mac: {runtime.mac!r} is not the MAC of one interface")
    return runtime.mac.lower()


def requested_ports(runtime: RuntimeConfig) -> tuple[HostPort, ...]:
    """The host ports that the runtime requests. Raises CniError."""
    ports = tuple(dict.fromkeys(_host_port(each) for each in runtime.portMappings if each.hostPort))
    if len(ports) > MAX_HOST_PORTS:
        raise CniError(
            BAD_CONFIGURATION,
            f"runtimeConfig.portMappings: {len(ports)} host ports, of {MAX_HOST_PORTS} that a pod may have",
            hint="put the pod on its node's network",
        )
    seen: defaultdict[tuple[int, str], list[HostPort]] = defaultdict(list)
    for port in ports:
        others = seen[port.port, port.protocol]
        for other in others:
            same = port.is_everywhere == other.is_everywhere and port.overlaps(other)
            if same and port.container_port != other.container_port:
                raise CniError(
                    BAD_CONFIGURATION,
                    f"runtimeConfig.portMappings: {port} leads to {other.container_port} and to {port.container_port}",
                )
        others.append(port)
    return ports


def _host_port(mapping: PortMapping) -> HostPort:
    protocol = next((each for each in _PROTOCOLS if each == mapping.protocol.upper()), None)
    if protocol is None:
        raise CniError(BAD_CONFIGURATION, f"runtimeConfig.portMappings: {mapping.protocol!r} is not tcp, udp or sctp")
    if not mapping.containerPort:
        raise CniError(
            BAD_CONFIGURATION, f"runtimeConfig.portMappings: host port {mapping.hostPort} has no containerPort"
        )
    try:
        address = ip_address(mapping.hostIP) if mapping.hostIP else None
    except ValueError as error:
        raise CniError(BAD_CONFIGURATION, f"runtimeConfig.portMappings: hostIP: {error}") from error
    return HostPort(mapping.hostPort, mapping.containerPort, protocol, address)


def requested_limits(runtime: RuntimeConfig) -> tuple[Limit | None, Limit | None]:
    """What limits traffic to the pod and from it. Raises CniError."""
    limits = runtime.bandwidth or Bandwidth()
    return (
        _limit("ingress", limits.ingressRate, limits.ingressBurst),
        _limit("egress", limits.egressRate, limits.egressBurst),
    )


def _limit(direction: str, rate: int, burst: int) -> Limit | None:
    if rate == 0 and burst == 0:
        return None
    where = f"runtimeConfig.bandwidth.{direction}"
    if rate == 0 or burst == 0:
        raise CniError(BAD_CONFIGURATION, f"{where}Rate and {direction}Burst must be given together")
    if rate < 8:
        raise CniError(BAD_CONFIGURATION, f"{where}Rate: {rate} bits a second is less than one byte")
    return Limit(rate, min(burst, rate * _LONGEST_BURST, _MOST_BITS))
