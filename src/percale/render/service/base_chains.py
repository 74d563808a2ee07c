"""Base chains, maps and sets of `table inet percale-services`, as static text. `renderer.py` fills them.

    prerouting ──▶ services ─┬─ VIP . protocol . port ─▶ drop, reject-chain, or the chains of `service_chains.py`:
    output ────▶ ─┘          │      ─▶ affinity… ─▶ endpoints… ─▶ dnat to endpoints[VIP . protocol . port . slot]
                             ├─ a node port at one of the node's addresses, likewise
                             └─ another port of a cluster IP ─▶ reject-chain; an address without a Service ─▶ drop
    postrouting ─▶ update-affinity, masquerade-marked, keep-source

All of it is evaluated for new connections only. One look-up serves, rejects or drops a connection.
Source: reference of kube-proxy's behaviour in docs/services.md; the layout's figures in docs/decisions/0010.
"""

from __future__ import annotations

from collections.abc import Iterator

from percale.model.ip_family import Family
from percale.render.network.base_chains import FORWARDED_PORTS, NODE_PORTS
from percale.render.nft.objects import Field, SetSpec, TableName, TableSpec
from percale.render.objects import OWNER

TABLE = TableName("inet", f"{OWNER}-services")
"""Separate from the policies' table, so that Services never delay a policy or a pod."""

MASQUERADE_MARK = 0x0020_0000
"""The bit of the packet mark that requests masquerading of a connection to a Service; cleared before the packet leaves."""

KEEP_SOURCE_MARK = 0x0040_0000
"""Likewise, the bit that requests that this node's own address stays: its network would take it for a client outside."""

REJECT_CHAIN = "reject-chain"


def _set_specs(version: Family) -> Iterator[SetSpec]:
    """The sets and maps of one IP version that the text declares and elements fill."""
    address = version.nft_address
    vip: tuple[Field, ...] = (address, "inet_proto", "inet_service")
    port: tuple[Field, ...] = ("inet_proto", "inet_service")
    endpoint: tuple[Field, ...] = (address, "inet_service")
    for name in ("services", "output"):
        yield SetSpec(f"{name}{version}", vip, data="verdict")
        yield SetSpec(f"{name}ports{version}", port, data="verdict")
    yield SetSpec(f"affinity{version}", (address, "inet_proto"), data="verdict")
    yield SetSpec(f"affinityports{version}", ("inet_proto",), data="verdict")
    for name in ("endpoints", "localendpoints"):
        yield SetSpec(f"{name}{version}", (*vip, "integer"), data=endpoint)
        yield SetSpec(f"{name}ports{version}", (*port, "integer"), data=endpoint)
    yield SetSpec(f"nodeaddresses{version}", (address,))
    yield SetSpec(f"podnets{version}", (address,), interval=True)
    yield SetSpec(f"clusterips{version}", (address,))
    yield SetSpec(f"servicenets{version}", (address,), interval=True)
    yield SetSpec(f"hairpins{version}", (address, address))
    yield SetSpec(f"sourceranges{version}", (*vip, address), interval=True)


SET_SPECS = tuple(spec for family in Family for spec in _set_specs(family))

_COMMENTS = {
    "services": "service addresses and ports",
    "servicesports": "node ports",
    "output": "those with another verdict for this node's own connections",
    "outputports": "likewise",
    "affinity": "service addresses with session affinity",
    "affinityports": "node ports with session affinity",
    "endpoints": "address . protocol . port . slot: endpoint",
    "endpointsports": "protocol . node port . slot: endpoint",
    "localendpoints": "endpoints on this node, for traffic policy Local",
    "localendpointsports": "likewise for node ports",
    "nodeaddresses": "this node's addresses that serve node ports",
    "podnets": "pod networks",
    "clusterips": "cluster IPs in use",
    "servicenets": "networks of cluster IPs",
    "hairpins": "pods of this node, twice: a pod that reaches itself through a service",
    "sourceranges": "clients that loadBalancerSourceRanges allow",
}


def _declared(spec: SetSpec, version: Family) -> str:
    ip = version.nft
    comment = f'\n    comment "{_COMMENTS[spec.name[:-1]]}"'
    if isinstance(spec.data, tuple):
        # As expressions: the slot number has no nft type of its own.
        key = "meta l4proto . th dport . numgen random mod 2"
        key = key if "ports" in spec.name else f"{ip} daddr . {key}"
        return f"map {spec.name} {{\n    typeof {key} : {ip} daddr . th dport{comment}\n}}\n"
    types = " . ".join(spec.key) + (" : verdict" if spec.data == "verdict" else "")
    flags = "\n    flags interval" if spec.interval else ""
    return f"{'map' if spec.data else 'set'} {spec.name} {{\n    type {types}{flags}{comment}\n}}\n"


_CHAINS = f"""\
chain {REJECT_CHAIN} {{
    meta nfproto ipv6 meta l4proto tcp reject with tcp reset comment "Linux retries after ICMPv6's unreachable"
    reject with icmpx port-unreachable
}}

chain services {{
    ip daddr . meta l4proto . th dport vmap @services4
    ip6 daddr . meta l4proto . th dport vmap @services6
    ip daddr @nodeaddresses4 meta l4proto . th dport vmap @servicesports4
    ip6 daddr @nodeaddresses6 meta l4proto . th dport vmap @servicesports6
    ip daddr @clusterips4 goto {REJECT_CHAIN}
    ip6 daddr @clusterips6 goto {REJECT_CHAIN}
    ip daddr @servicenets4 drop comment "no service has this address"
    ip6 daddr @servicenets6 drop comment "no service has this address"
}}

chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
}}

chain output {{
    type nat hook output priority -100; policy accept;
    ip daddr . meta l4proto . th dport vmap @output4
    ip6 daddr . meta l4proto . th dport vmap @output6
    ip daddr @nodeaddresses4 meta l4proto . th dport vmap @outputports4
    ip6 daddr @nodeaddresses6 meta l4proto . th dport vmap @outputports6
    jump services
}}

chain update-affinity {{
    ct original ip daddr . meta l4proto vmap @affinity4
    ct original ip6 daddr . meta l4proto vmap @affinity6
    ct original ip daddr @nodeaddresses4 meta l4proto vmap @affinityports4
    ct original ip6 daddr @nodeaddresses6 meta l4proto vmap @affinityports6
}}

chain masquerade-marked {{
    meta mark set meta mark & {0xFFFF_FFFF ^ MASQUERADE_MARK:#x} comment "a tunnel's outer packet inherits the mark"
    fib saddr type local meta l4proto {{ tcp, udp, sctp }} masquerade to :{NODE_PORTS} fully-random comment "this node's own"
    meta l4proto {{ tcp, udp, sctp }} masquerade to :{FORWARDED_PORTS} fully-random comment "replies return through this node"
}}

chain keep-source {{
    meta mark set meta mark & {0xFFFF_FFFF ^ KEEP_SOURCE_MARK:#x} comment "a tunnel's outer packet inherits the mark"
    ip saddr 127.0.0.0/8 masquerade fully-random comment "from loopback"
    snat ip to ip saddr comment "to itself: what masquerades later is not asked"
    snat ip6 to ip6 saddr
}}

chain postrouting {{
    type nat hook postrouting priority srcnat - 5; policy accept;
    ct status & dnat == dnat jump update-affinity
    meta mark & {MASQUERADE_MARK:#x} == {MASQUERADE_MARK:#x} goto masquerade-marked
    ct status & dnat != dnat return
    ip saddr . ip daddr @hairpins4 masquerade fully-random comment "a pod that reaches itself through a service"
    ip6 saddr . ip6 daddr @hairpins6 masquerade fully-random comment "a pod that reaches itself through a service"
    meta mark & {KEEP_SOURCE_MARK:#x} == {KEEP_SOURCE_MARK:#x} goto keep-source
}}
"""

TEXT = "\n".join([*(_declared(spec, version) for version in Family for spec in _set_specs(version)), _CHAINS])

TABLE_SPEC = TableSpec(TABLE, TEXT, SET_SPECS)
