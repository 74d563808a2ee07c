"""The static text of our three nft tables; whatever changes is an element (`masquerade.py`, `sources.py`). Used by the agent.

    ip, ip6   prerouting, raw    a pod's device lets only the pod's own addresses in; tunnels are not tracked
              input              nothing of a pod's gets into our tunnels, nor what somebody leads there by translating it;
                       to loopback nothing that begins elsewhere, whichever device has `route_localnet`
              forward, last      the same for those of other nodes; established flows are marked for the shortcut
              postrouting, nat   traffic that leaves the pod network gets the node's address
    bridge    prerouting         the same guard for pods on a bridge

Pod-to-pod traffic is tracked like any other, but for the outer packets of our tunnels. What is established and not translated
gets a mark after all filters, by which the shortcut learns it (`shortcut.py`).
"""

from __future__ import annotations

from percale.render.objects import Ruleset
from percale.render.shortcut import MARK as SHORTCUT_MARK

POD_DEVICE_PREFIX = "pcl"
"""The name of a pod's device on the node starts so; nothing else's does."""

KUBE_PROXY_MARK = 0x4000
"""kube-proxy translates what carries this mark itself."""

_ROUTED = """\
set cluster {{
    type {address}
    flags interval
    comment "the pod network; empty when nothing is to be masqueraded"
}}

set own {{
    type {address}
    flags interval
    comment "this node's part of the pod network; empty likewise"
}}

set sources {{
    type ifname . {address}
    comment "a pod's device and the address that it may send from"
}}

set tunnels {{
    type inet_service
    comment "UDP ports of our own tunnels between nodes"
}}

set pods {{
    type {address}
    flags interval
    comment "the pod network, always"
}}

counter spoofed {{
    comment "packets of pods with a source address that is not theirs, or for a tunnel"
}}

counter loopback {{
    comment "packets from elsewhere to or from loopback's addresses"
}}

chain tunnelled {{
    udp dport @tunnels notrack comment "what is inside is tracked"
}}

chain sending {{
    type filter hook output priority raw; policy accept;
    goto tunnelled comment "what this node sends"
}}

chain arriving {{
    type filter hook input priority filter; policy accept;
{loopback}\
    udp dport @tunnels {ip} saddr @pods counter name spoofed drop comment "what a pod puts into a tunnel has any source"
    udp dport @tunnels ct status dnat counter name spoofed drop comment "sent elsewhere, and led here: by a pod, perhaps"
}}

chain passing {{
    type filter hook forward priority 200; policy accept;
    udp dport @tunnels {ip} saddr @pods {ip} daddr != @pods counter name spoofed drop comment "the same, other nodes' tunnels"
    udp dport @tunnels ct status dnat {ip} daddr != @pods counter name spoofed drop comment "likewise"
    ct state established ct status & (snat | dnat) == 0 meta mark set meta mark | {shortcut:#x} comment "for the shortcut"
}}

chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "{prefix}*" goto tunnelled comment "not from a pod"
    iifname . {ip} saddr @sources accept comment "a pod's own address"
{exceptions}\
    counter name spoofed drop comment "a pod's packet with a source address that is not the pod's"
}}

chain masquerading {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & {mark:#x} == {mark:#x} return comment "kube-proxy translates this itself"
    {ip} saddr @own {ip} daddr @cluster return comment "from our pods to pods"
    {ip} saddr @cluster {ip} daddr @own return comment "from pods to our pods"
    {ip} saddr != @cluster {ip} daddr @own return comment "from outside to our pods: they see the client"
    {ip} saddr @cluster {ip} daddr != {multicast} masquerade fully-random comment "from pods to the outside"
    {ip} saddr != @cluster {ip} daddr @cluster masquerade fully-random comment "from outside to pods of other nodes"
}}
"""

_LOOPBACK = """\
    ip daddr 127.0.0.0/8 iifname != "lo" ct direction original counter name loopback drop comment "host ports: answers only"
    ip saddr 127.0.0.0/8 iifname != "lo" counter name loopback drop comment "loopback's addresses are nobody's elsewhere"
"""

_NEIGHBOUR_DISCOVERY = """\
    udp dport @tunnels ip6 saddr { ::, fe80::/10 } counter name spoofed drop comment "sources that every pod may have"
    ip6 saddr { ::, fe80::/10 } accept comment "neighbour discovery; never leaves the link"
"""

_BRIDGED = f"""\
set sources {{
    type ifname . ipv4_addr
    comment "a pod's bridge port and the address that it may send from"
}}

set sources6 {{
    type ifname . ipv6_addr
    comment "the same for IPv6"
}}

set tunnels {{
    type inet_service
    comment "UDP ports of our own tunnels between nodes over IPv6"
}}

counter spoofed {{
    comment "frames of pods with a source address that is not theirs, or for a tunnel"
}}

chain guard {{
    type filter hook prerouting priority dstnat; policy accept;
    iifname != "{POD_DEVICE_PREFIX}*" accept comment "not from a pod"
    iifname . ip saddr @sources accept comment "a pod's own address"
    iifname . arp saddr ip @sources accept comment "ARP about the pod's own address"
    arp saddr ip 0.0.0.0 accept comment "ARP that asks whether an address is free"
    iifname . ip6 saddr @sources6 accept comment "a pod's own address"
{_NEIGHBOUR_DISCOVERY}\
    ether type {{ ip, arp, ip6 }} counter name spoofed drop comment "a pod's frame with a source that is not the pod's"
}}
"""

RULESETS = (
    Ruleset(
        "ip",
        _ROUTED.format(
            address="ipv4_addr",
            ip="ip",
            multicast="224.0.0.0/4",
            loopback=_LOOPBACK,
            exceptions="",
            prefix=POD_DEVICE_PREFIX,
            mark=KUBE_PROXY_MARK,
            shortcut=SHORTCUT_MARK,
        ),
    ),
    Ruleset(
        "ip6",
        _ROUTED.format(
            address="ipv6_addr",
            ip="ip6",
            multicast="ff00::/8",
            loopback="",
            exceptions=_NEIGHBOUR_DISCOVERY,
            prefix=POD_DEVICE_PREFIX,
            mark=KUBE_PROXY_MARK,
            shortcut=SHORTCUT_MARK,
        ),
    ),
    Ruleset("bridge", _BRIDGED),
)
"""All three; a table without elements lets everything pass, except from pods' devices."""
