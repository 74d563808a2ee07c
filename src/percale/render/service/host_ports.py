"""Host ports: a pod's port at its node's addresses, as `portMappings` of the CNI ask for it. Static text, and elements.

    prerouting, output ─▶ hostports ─▶ dnat to hostaddressports[address . protocol . port] or hostports[protocol . port]

After Services, whose node ports come first. Only this node's own addresses count, as of the packet: whatever a pod asks for, it
gets nothing that is sent elsewhere, and nothing of the ports that are kept for the agent. Everybody reaches them, this node and
its pods as well; at loopback the node's processes alone, and what is there is asked for by its address. Who is at loopback
loses that address on the way, as does a pod that reaches itself: it would take its own answer for a stranger's. The text is
there with and without Services. `agent/service/host_ports.py` fills it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from percale.model.addresses import IPAddress
from percale.model.pod import PROTOCOL_NUMBERS, Protocol
from percale.render.nft.objects import Field, SetSpec, TableSpec
from percale.render.policy import base_chains as policies


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
        """It is at addresses of this IP version."""
        return self.address is None or self.address.version == version

    @property
    def is_everywhere(self) -> bool:
        """At all addresses of the node, of one family or of both."""
        return self.address is None or self.address.is_unspecified

    @property
    def is_at_loopback(self) -> bool:
        """The node's processes may reach it there."""
        return self.is_at(4) and (self.address is None or self.address.is_unspecified or self.address.is_loopback)

    def overlaps(self, other: HostPort) -> bool:
        """Some packet is for both."""
        if (self.port, self.protocol) != (other.port, other.protocol):
            return False
        if self.is_everywhere or other.is_everywhere:
            return any(self.is_at(version) and other.is_at(version) for version in (4, 6))
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

_KEPT = """\
set keptports {
    type inet_proto . inet_service
    comment "ports of this node's agent, which no pod takes"
}
"""

TEXT = "\n".join(
    [
        _KEPT,
        *(_TEXT.format(version=version, address=address) for version, address in ((4, "ipv4_addr"), (6, "ipv6_addr"))),
        """\
chain hostports {
    fib daddr type != local return comment "not this node's address"
    meta l4proto . th dport @keptports return
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
    ip saddr 127.0.0.0/8 return comment "nobody elsewhere has such an address"
    goto hostports
}

chain hostports-output {
    type nat hook output priority -95; policy accept;
    goto hostports
}

chain hostports-postrouting {
    type nat hook postrouting priority srcnat - 4; policy accept;
    ct status & dnat != dnat return
    ip saddr 127.0.0.0/8 oifname != "lo" masquerade fully-random comment "what this node sends from loopback to a pod"
    ip saddr . ip daddr @hostpods4 masquerade fully-random comment "a pod that reaches itself through its host port"
    ip6 saddr . ip6 daddr @hostpods6 masquerade fully-random comment "a pod that reaches itself through its host port"
}
""",
    ]
)

_ADDRESSES: dict[int, Field] = {4: "ipv4_addr", 6: "ipv6_addr"}


def _shapes(version: int) -> Iterator[SetSpec]:
    address = _ADDRESSES[version]
    yield SetSpec(f"hostports{version}", ("inet_proto", "inet_service"), data=(address, "inet_service"))
    yield SetSpec(f"hostaddressports{version}", (address, "inet_proto", "inet_service"), data=(address, "inet_service"))
    yield SetSpec(f"hostpods{version}", (address, address))


SET_SPECS = (SetSpec("keptports", ("inet_proto", "inet_service")), *_shapes(4), *_shapes(6))
"""What the text declares and elements fill."""

TABLE_SPEC = TableSpec(policies.TABLE_SPEC.name, f"{policies.TEXT}\n{TEXT}", (*policies.SET_SPECS, *SET_SPECS))
"""With what policies have in the same table."""


def host_port_elements(addresses: Iterable[IPAddress], ports: Iterable[HostPort]) -> Iterator[tuple[str, bytes, bytes]]:
    """Set, key and data of each element that these ports of a pod need. An unspecified address means all of its family."""
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


def kept_elements(ports: Iterable[tuple[Protocol, int]]) -> Iterator[tuple[str, bytes, bytes]]:
    """The same of ports that are the agent's."""
    for protocol, port in ports:
        yield "keptports", bytes((PROTOCOL_NUMBERS[protocol], 0, 0, 0)) + _packed(port), b""


def _packed(port: int) -> bytes:
    return port.to_bytes(2, "big") + b"\0\0"
