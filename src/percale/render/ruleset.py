"""The text of our three nft tables; whatever changes is an element (`masquerade.py`, `sources.py`, `tunnels.py`).

    ip, ip6   prerouting, raw    a pod's device lets only the pod's own addresses in; peers' tunnel packets are not tracked
              output, raw        nor are ours
              input              our tunnels take what peers send to their ends here, and nothing else
              forward, last      nothing forwarded gets into a node's tunnel; established flows are marked for the shortcut
              postrouting, nat   traffic that leaves the pod network gets the node's address
    bridge    prerouting         the same guard for pods on a bridge

Pod-to-pod traffic is tracked like any other, but for the outer packets of our tunnels. What is established and not translated
gets a mark after all filters, by which the shortcut learns it (`shortcut.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from percale.render.objects import Family, IPNetwork, Ruleset
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
    comment "UDP ports of tunnels between nodes"
}}

set ours {{
    type inet_service
    comment "those of this node's own tunnels; none when its backend has none"
}}

set here {{
    type {address}
    comment "where our own tunnels end"
}}

set peers {{
    type {address}
    comment "public addresses of the other nodes, where their tunnels end"
}}

set pods {{
    type {address}
    flags interval
    comment "the pod network, always"
}}

counter spoofed {{
    comment "packets of pods with a source address that is not theirs, or for a tunnel"
}}

chain sending {{
    type filter hook output priority raw; policy accept;
    udp dport @ours {ip} daddr @peers {ip} saddr @here notrack comment "our tunnels: what is inside is tracked"
}}

chain arriving {{
    type filter hook input priority filter; policy accept;
    udp dport @tunnels goto entering comment "a tunnel between nodes"
}}

chain entering {{
    {ip} saddr @pods counter name spoofed drop comment "what a pod puts into a tunnel has any source"
    ct status dnat counter name spoofed drop comment "sent elsewhere, and led here: by a pod, perhaps"
    udp dport != @ours return comment "no tunnel of ours"
    {ip} daddr @here {ip} saddr @peers return comment "from a peer to the tunnel's end"
    counter name spoofed drop comment "no peer's, or not to the tunnel's end"
}}

chain passing {{
    type filter hook forward priority 200; policy accept;
    udp dport @tunnels jump leaving comment "a tunnel between nodes, or a pod's own port of that number"
    ct state established ct status & (snat | dnat) == 0 meta mark set meta mark | {shortcut:#x} comment "for the shortcut"
}}

chain leaving {{
    {ip} saddr @pods {ip} daddr != @pods counter name spoofed drop comment "what a pod puts into a tunnel has any source"
    ct status dnat {ip} daddr != @pods counter name spoofed drop comment "sent elsewhere, and led there: by a pod, perhaps"
    {ip} daddr @peers {ip} saddr != @peers counter name spoofed drop comment "only what a node itself sends"
{ends}\
}}

chain outside {{
    udp dport @ours {ip} saddr @peers {ip} daddr @here notrack comment "our tunnels: what is inside is tracked"
}}

chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "{prefix}*" goto outside comment "not from a pod"
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

_ENDS = """\
    {ip} daddr @pods {ip} daddr & {hosts} <= {last} counter name spoofed drop comment "the tunnel's and the bridge's address"
"""
"""Of each node they are the first two of its subnet; pods have others."""

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
    comment "UDP ports of tunnels between nodes"
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


def rulesets(own: Iterable[IPNetwork] = ()) -> tuple[Ruleset, ...]:
    """All three. `own` are this node's subnets: those of all nodes are of the same size.

    A table without elements lets everything pass, except from pods' devices.
    """
    sizes = {subnet.version: subnet for subnet in own}
    return (
        Ruleset("ip", _routed("ip", "ipv4_addr", "224.0.0.0/4", "", sizes.get(4))),
        Ruleset("ip6", _routed("ip6", "ipv6_addr", "ff00::/8", _NEIGHBOUR_DISCOVERY, sizes.get(6))),
        Ruleset("bridge", _BRIDGED),
    )


def _routed(ip: Family, address: str, multicast: str, exceptions: str, own: IPNetwork | None) -> str:
    last = type(own.network_address)(1) if own is not None else None
    return _ROUTED.format(
        address=address,
        ip=ip,
        multicast=multicast,
        exceptions=exceptions,
        ends=_ENDS.format(ip=ip, hosts=own.hostmask, last=last) if own is not None else "",
        prefix=POD_DEVICE_PREFIX,
        mark=KUBE_PROXY_MARK,
        shortcut=SHORTCUT_MARK,
    )
