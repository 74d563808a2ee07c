"""The static text of `table inet percale`, which enforces policies. Elements and class chains are added by `renderer.py`.

    forward ─▶ cut flows drop ─▶ established flows pass ─▶ egress class of the source ─▶ ingress class of the destination

No policy applies to a pod in no map. A class chain returns what it allows and drops the rest. The hook is after DNAT and before
masquerade; traffic between a node and its own pods is never forwarded, so it always passes, as Kubernetes requires.
"""

from __future__ import annotations

from percale.render.network.base_chains import DISCOVERY, LONGEST_DISCOVERY
from percale.render.nft.objects import POLICY_TABLE, SetSpec, TableSpec

CUT_MARK = 0x0010_0000
"""Bit of the connection mark: established, and forbidden by a policy now."""

EGRESS = {4: "egress4", 6: "egress6"}
INGRESS = {4: "ingress4", 6: "ingress6"}
SELF = {4: "self4", 6: "self6"}
"""Maps and sets of the static text by IP version."""

CLASS_MAPS = frozenset((*EGRESS.values(), *INGRESS.values()))
"""Maps from pod addresses to class chains."""

TEXT = f"""\
map egress4 {{
    type ipv4_addr : verdict
    comment "the class of a pod that policies isolate for egress"
}}

map egress6 {{
    type ipv6_addr : verdict
    comment "the same for IPv6"
}}

map ingress4 {{
    type ipv4_addr : verdict
    comment "the class of a pod that policies isolate for ingress"
}}

map ingress6 {{
    type ipv6_addr : verdict
    comment "the same for IPv6"
}}

set self4 {{
    type ipv4_addr . ipv4_addr
    comment "isolated pods twice: a pod reaches itself, through a service too"
}}

set self6 {{
    type ipv6_addr . ipv6_addr
    comment "the same for IPv6"
}}

chain discovery {{
    ip6 hoplimit != 255 drop comment "forwarded"
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} ip6 length <= {LONGEST_DISCOVERY} accept comment "on a bridge"
}}

chain policies {{
    type filter hook forward priority filter; policy accept;
    ct mark & {CUT_MARK:#x} == {CUT_MARK:#x} drop comment "no longer allowed"
    ct state established accept comment "evaluated as a new connection"
    icmp type redirect drop comment "pods have one gateway"
    ct state related accept comment "its ICMP errors, or an expected connection"
    icmpv6 type {{ {DISCOVERY} }} jump discovery comment "neighbour discovery"
    ip saddr . ip daddr @self4 accept comment "a pod and itself"
    ip6 saddr . ip6 daddr @self6 accept comment "a pod and itself"
    ip saddr vmap @egress4
    ip6 saddr vmap @egress6
    ip daddr vmap @ingress4
    ip6 daddr vmap @ingress6
}}
"""

SET_SPECS = (
    SetSpec("egress4", ("ipv4_addr",), data="verdict"),
    SetSpec("egress6", ("ipv6_addr",), data="verdict"),
    SetSpec("ingress4", ("ipv4_addr",), data="verdict"),
    SetSpec("ingress6", ("ipv6_addr",), data="verdict"),
    SetSpec("self4", ("ipv4_addr", "ipv4_addr")),
    SetSpec("self6", ("ipv6_addr", "ipv6_addr")),
)
"""The maps and sets that the text declares."""

TABLE_SPEC = TableSpec(POLICY_TABLE, TEXT, SET_SPECS)
