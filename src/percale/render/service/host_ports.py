"""Host ports: a pod's port at its node's addresses, requested by the CNI's `portMappings`. Base chains, and elements.

    prerouting, output ─▶ hostports ─▶ dnat to hostaddressports[address . protocol . port] or hostports[protocol . port]

Node ports of Services take precedence. Only packets to this node's own addresses are translated: whatever a pod requests, it
receives nothing that is sent elsewhere, and nothing at ports that are reserved for the agent. All clients reach host ports,
this node and its pods too; at loopback only the node's processes do, and only ports that name the address. Packets from
127.0.0.0/8 are masqueraded, as are those of a pod to itself, which could not match the reply otherwise; the kernel has no
such way from ::1, so that a port there has only clients with another address of the node. The table has these
chains with and without Services. `agent/service/host_ports.py` fills the sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from percale.model.addresses import IPAddress
from percale.model.ip_family import Family
from percale.model.pod import PROTOCOL_NUMBERS, Protocol
from percale.render.nft.objects import SetSpec, TableSpec
from percale.render.policy import base_chains as policy_base


class HostPort(Struct, frozen=True):
    """`address` None: at all addresses of the node."""

    port: int
    container_port: int
    protocol: Protocol
    address: IPAddress | None = None

    def __str__(self) -> str:
        where = "" if self.address is None else f" at {self.address}"
        return f"host port {self.port}/{self.protocol}{where}"

    def is_at(self, version: int) -> bool:
        """Whether it is at addresses of this IP version."""
        return self.address is None or self.address.version == version

    @property
    def is_everywhere(self) -> bool:
        """Whether it is at all addresses of the node, of one family or of both."""
        return self.address is None or self.address.is_unspecified

    @property
    def is_at_loopback(self) -> bool:
        """Whether the node's processes reach it at loopback."""
        return self.is_at(4) and (self.address is None or self.address.is_unspecified or self.address.is_loopback)

    def overlaps(self, other: HostPort) -> bool:
        """Whether a packet could be for both."""
        if (self.port, self.protocol) != (other.port, other.protocol):
            return False
        if self.is_everywhere or other.is_everywhere:
            return any(self.is_at(version) and other.is_at(version) for version in Family)
        return self.address == other.address


_TEXT = """\
map hostports{version} {{
    type inet_proto . inet_service : {address} . inet_service
    comment "protocol . host port: the pod behind it"
}}

map hostaddressports{version} {{
    type {address} . inet_proto . inet_service : {address} . inet_service
    comment "the same at one address"
}}

set hostpods{version} {{
    type {address} . {address}
    comment "pods with host ports twice: a pod that reaches itself"
}}
"""

_RESERVED = """\
set reservedports {
    type inet_proto . inet_service
    comment "ports of this node's agent"
}
"""

TEXT = "\n".join(
    [
        _RESERVED,
        *(_TEXT.format(version=version, address=address) for version, address in ((4, "ipv4_addr"), (6, "ipv6_addr"))),
        """\
chain hostports {
    fib daddr type != local return comment "not this node's address"
    meta l4proto . th dport @reservedports return
    dnat ip to ip daddr . meta l4proto . th dport map @hostaddressports4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @hostaddressports6
    ip daddr 127.0.0.0/8 return
    ip6 daddr ::1 return
    dnat ip to meta l4proto . th dport map @hostports4
    dnat ip6 to meta l4proto . th dport map @hostports6
}

chain hostports-prerouting {
    type nat hook prerouting priority dstnat + 5; policy accept;
    ip daddr 127.0.0.0/8 return comment "loopback is for this node's processes"
    ip saddr 127.0.0.0/8 return comment "a loopback source from elsewhere"
    goto hostports
}

chain hostports-output {
    type nat hook output priority -95; policy accept;
    ip6 saddr ::1 return comment "no reply would come back to IPv6's loopback"
    goto hostports
}

chain hostports-postrouting {
    type nat hook postrouting priority srcnat - 4; policy accept;
    ct status & dnat != dnat return
    ip saddr 127.0.0.0/8 oifname != "lo" masquerade fully-random comment "from loopback to a pod"
    ip saddr . ip daddr @hostpods4 masquerade fully-random comment "a pod that reaches itself through its host port"
    ip6 saddr . ip6 daddr @hostpods6 masquerade fully-random comment "a pod that reaches itself through its host port"
}
""",
    ]
)


def _shapes(version: Family) -> Iterator[SetSpec]:
    address = version.nft_address
    yield SetSpec(f"hostports{version}", ("inet_proto", "inet_service"), data=(address, "inet_service"))
    yield SetSpec(f"hostaddressports{version}", (address, "inet_proto", "inet_service"), data=(address, "inet_service"))
    yield SetSpec(f"hostpods{version}", (address, address))


SET_SPECS = (SetSpec("reservedports", ("inet_proto", "inet_service")), *_shapes(Family.IPV4), *_shapes(Family.IPV6))
"""The sets of the text, which elements fill."""

TABLE_SPEC = TableSpec(policy_base.TABLE_SPEC.name, f"{policy_base.TEXT}\n{TEXT}", (*policy_base.SET_SPECS, *SET_SPECS))
"""With what policies have in the same table."""


def host_port_elements(addresses: Iterable[IPAddress], ports: Iterable[HostPort]) -> Iterator[tuple[str, bytes, bytes]]:
    """Set, key and data of each element for these ports of a pod. An unspecified address means all of its family."""
    wanted = list(ports)
    for pod in addresses if wanted else ():
        yield f"hostpods{pod.version}", pod.packed * 2, b""
        for port in wanted:
            at = port.address
            if at is not None and at.version != pod.version:
                continue
            key = bytes((PROTOCOL_NUMBERS[port.protocol], 0, 0, 0)) + _packed(port.port)
            data = pod.packed + _packed(port.container_port)
            if at is None or at.is_unspecified:
                yield f"hostports{pod.version}", key, data
            else:
                yield f"hostaddressports{pod.version}", at.packed + key, data


def reserved_elements(ports: Iterable[tuple[Protocol, int]]) -> Iterator[tuple[str, bytes, bytes]]:
    """The same for ports that are reserved for the agent."""
    for protocol, port in ports:
        yield "reservedports", bytes((PROTOCOL_NUMBERS[protocol], 0, 0, 0)) + _packed(port), b""


def _packed(port: int) -> bytes:
    return port.to_bytes(2, "big") + b"\0\0"
