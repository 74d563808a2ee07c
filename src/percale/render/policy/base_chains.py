"""The static text of `table inet percale`, which enforces policies. Elements and class chains are added by `renderer.py`.

    forward ─▶ cut flows drop ─▶ established flows pass ─▶ egress class of the source ─▶ ingress class of the destination
    input ───▶ cut flows drop ─▶ established flows pass ─▶ egress-node class of the source

No policy applies to a pod in no map. A class chain returns what it allows and drops the rest. The hooks are after DNAT and before
masquerade. What a node sends to its own pods always passes, and so does what they send to it, as Kubernetes requires of
NetworkPolicies: only a ClusterNetworkPolicy's egress can deny it. `own-node` has a hook (`INPUT`) while a pod of the node has
such a policy.
"""

from __future__ import annotations

from percale.render.network.base_chains import DISCOVERY, LONGEST_DISCOVERY
from percale.render.nft.objects import INPUT_CHAIN, POLICY_TABLE, Chain, Rule, SetSpec, TableSpec, Verdict

CUT_MARK = 0x0010_0000
"""Bit of the connection mark: established, and forbidden by a policy now."""

EGRESS = {4: "egress4", 6: "egress6"}
EGRESS_NODE = {4: "egress-node4", 6: "egress-node6"}
INGRESS = {4: "ingress4", 6: "ingress6"}
SELF = {4: "self4", 6: "self6"}
"""Maps and sets of the static text by IP version."""

CLASS_MAPS = frozenset((*EGRESS.values(), *EGRESS_NODE.values(), *INGRESS.values()))
"""Maps from pod addresses to class chains."""

OWN_NODE = "own-node"
"""The chain of the static text for what a pod sends to its own node."""
INPUT = Chain(INPUT_CHAIN, (Rule((), Verdict("jump", OWN_NODE), "a pod's packets to its own node"),))
"""Put with the first element of the maps `EGRESS_NODE`, and removed with the last."""

TEXT = f"""\
map egress4 {{
    type ipv4_addr : verdict
    comment "the class of a pod that policies isolate for egress"
}}

map egress6 {{
    type ipv6_addr : verdict
    comment "the same for IPv6"
}}

map egress-node4 {{
    type ipv4_addr : verdict
    comment "the class of a pod whose packets to its own node ClusterNetworkPolicies deny"
}}

map egress-node6 {{
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

chain {OWN_NODE} {{
    ct mark & {CUT_MARK:#x} == {CUT_MARK:#x} drop comment "no longer allowed"
    ct state {{ established, related }} accept comment "evaluated as a new connection; the kubelet's probes are answered"
    icmpv6 type {{ {DISCOVERY} }} accept comment "neighbour discovery"
    ip saddr vmap @egress-node4
    ip6 saddr vmap @egress-node6
}}
"""

SET_SPECS = (
    SetSpec("egress4", ("ipv4_addr",), data="verdict"),
    SetSpec("egress6", ("ipv6_addr",), data="verdict"),
    SetSpec("egress-node4", ("ipv4_addr",), data="verdict"),
    SetSpec("egress-node6", ("ipv6_addr",), data="verdict"),
    SetSpec("ingress4", ("ipv4_addr",), data="verdict"),
    SetSpec("ingress6", ("ipv6_addr",), data="verdict"),
    SetSpec("self4", ("ipv4_addr", "ipv4_addr")),
    SetSpec("self6", ("ipv6_addr", "ipv6_addr")),
)
"""The maps and sets that the text declares."""

TABLE_SPEC = TableSpec(POLICY_TABLE, TEXT, SET_SPECS)
