"""The static text of `table inet percale-services`: maps, sets and base chains. What they hold is `renderer.py`'s.

    prerouting ──────────▶ services ─┬─ VIP . protocol . port ─▶ refuse | drop | guard… | cluster… | outside… | split…
    output ─────▶ own ──▶ ─┘         │      ─▶ stay… ─▶ pick… ─▶ dnat to endpoints[VIP . protocol . port . turn]
                                     └─ node port at one of the node's addresses, likewise
                                     └─ another port of a cluster IP ─▶ refuse; an unused one ─▶ drop
    postrouting ─▶ remembering (session affinity) ─▶ masquerading

All of it is seen by new connections only. Who is not served is refused in the same look-up that would have served him.
Source: reference of kube-proxy's behaviour in docs/services.md; the layout's figures in docs/decisions/0010.
"""

from __future__ import annotations

from collections.abc import Iterator

from percale.model.ip_family import Family
from percale.render.nft.objects import Field, SetSpec, TableName, TableSpec
from percale.render.objects import OWNER

TABLE = TableName("inet", f"{OWNER}-services")
"""Apart from the policies' table, so that nothing about a Service holds up a policy or a pod."""

MASQUERADE_MARK = 0x0020_0000
"""The packet mark's bit of new connections to a service whose source is to be the node; cleared before they leave."""

REFUSE = "refuse"
"""The chain that says at once that nobody serves here."""


def shapes(version: Family) -> Iterator[SetSpec]:
    """The sets and maps of one IP version that the text declares and elements fill."""
    address = version.nft_address
    vip: tuple[Field, ...] = (address, "inet_proto", "inet_service")
    port: tuple[Field, ...] = ("inet_proto", "inet_service")
    endpoint: tuple[Field, ...] = (address, "inet_service")
    for name in ("services", "own"):
        yield SetSpec(f"{name}{version}", vip, data="verdict")
        yield SetSpec(f"{name}ports{version}", port, data="verdict")
    yield SetSpec(f"sticky{version}", (address, "inet_proto"), data="verdict")
    yield SetSpec(f"stickyports{version}", ("inet_proto",), data="verdict")
    for name in ("endpoints", "locals"):
        yield SetSpec(f"{name}{version}", (*vip, "integer"), data=endpoint)
        yield SetSpec(f"{name}ports{version}", (*port, "integer"), data=endpoint)
    yield SetSpec(f"nodeaddresses{version}", (address,))
    yield SetSpec(f"clients{version}", (address,), interval=True)
    yield SetSpec(f"clusterips{version}", (address,))
    yield SetSpec(f"servicenets{version}", (address,), interval=True)
    yield SetSpec(f"hairpins{version}", (address, address))
    yield SetSpec(f"admitted{version}", (*vip, address), interval=True)


SET_SPECS = tuple(shape for family in Family for shape in shapes(family))

_COMMENTS = {
    "services": "service addresses: how they are served",
    "servicesports": "node ports: how they are served",
    "own": "the same where it is otherwise for this node's own connections",
    "ownports": "likewise",
    "sticky": "addresses of services whose clients stay with their endpoint",
    "stickyports": "the same for node ports",
    "endpoints": "address . protocol . port . turn: an endpoint",
    "endpointsports": "protocol . node port . turn: an endpoint",
    "locals": "the endpoints on this node, where only they are used",
    "localsports": "likewise for node ports",
    "nodeaddresses": "this node's addresses that take node ports",
    "clients": "pods of the cluster",
    "clusterips": "cluster IPs in use",
    "servicenets": "the network that cluster IPs are taken from",
    "hairpins": "endpoints on this node twice: a pod that reaches itself through a service",
    "admitted": "who may use a load balancer address that only some may",
}


def _declared(shape: SetSpec, version: Family) -> str:
    ip = version.nft
    comment = f'\n    comment "{_COMMENTS[shape.name[:-1]]}"'
    if isinstance(shape.data, tuple):
        # As expressions, for a number by turns has no type of its own that nft could spell.
        key = "meta l4proto . th dport . numgen random mod 2"
        key = key if "ports" in shape.name else f"{ip} daddr . {key}"
        return f"map {shape.name} {{\n    typeof {key} : {ip} daddr . th dport{comment}\n}}\n"
    spelled = " . ".join(shape.key) + (" : verdict" if shape.data == "verdict" else "")
    flags = "\n    flags interval" if shape.interval else ""
    return f"{'map' if shape.data else 'set'} {shape.name} {{\n    type {spelled}{flags}{comment}\n}}\n"


_CHAINS = f"""\
chain {REFUSE} {{
    meta nfproto ipv6 meta l4proto tcp reject with tcp reset comment "Linux goes on asking after ICMPv6's unreachable"
    reject with icmpx port-unreachable
}}

chain services {{
    ip daddr . meta l4proto . th dport vmap @services4
    ip6 daddr . meta l4proto . th dport vmap @services6
    ip daddr @nodeaddresses4 meta l4proto . th dport vmap @servicesports4
    ip6 daddr @nodeaddresses6 meta l4proto . th dport vmap @servicesports6
    ip daddr @clusterips4 goto {REFUSE}
    ip6 daddr @clusterips6 goto {REFUSE}
    ip daddr @servicenets4 drop comment "no service has this address"
    ip6 daddr @servicenets6 drop comment "no service has this address"
}}

chain translating {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
}}

chain translating-own {{
    type nat hook output priority -100; policy accept;
    ip daddr . meta l4proto . th dport vmap @own4
    ip6 daddr . meta l4proto . th dport vmap @own6
    ip daddr @nodeaddresses4 meta l4proto . th dport vmap @ownports4
    ip6 daddr @nodeaddresses6 meta l4proto . th dport vmap @ownports6
    jump services
}}

chain remembering {{
    ct original ip daddr . meta l4proto vmap @sticky4
    ct original ip6 daddr . meta l4proto vmap @sticky6
    ct original ip daddr @nodeaddresses4 meta l4proto vmap @stickyports4
    ct original ip6 daddr @nodeaddresses6 meta l4proto vmap @stickyports6
}}

chain as-this-node {{
    meta mark set meta mark & {0xFFFF_FFFF ^ MASQUERADE_MARK:#x} comment "a tunnel's outer packet inherits the mark"
    masquerade fully-random comment "the service's answers come back by this node"
}}

chain masquerading {{
    type nat hook postrouting priority srcnat - 5; policy accept;
    ct status & dnat == dnat jump remembering
    meta mark & {MASQUERADE_MARK:#x} == {MASQUERADE_MARK:#x} goto as-this-node
    ct status & dnat != dnat return
    ip saddr . ip daddr @hairpins4 masquerade fully-random comment "a pod that reaches itself through a service"
    ip6 saddr . ip6 daddr @hairpins6 masquerade fully-random comment "a pod that reaches itself through a service"
}}
"""

TEXT = "\n".join([*(_declared(shape, version) for version in Family for shape in shapes(version)), _CHAINS])

TABLE_SPEC = TableSpec(TABLE, TEXT, SET_SPECS)
