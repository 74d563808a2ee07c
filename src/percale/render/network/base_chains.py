"""The text and sets of the tables `ip`, `ip6` and `bridge percale`; what changes are elements (`elements.py`).

    ip, ip6   prerouting, first  drop spoofed sources of pods, before fragments are reassembled
              prerouting, raw    peers' tunnel packets are not tracked
              output, raw        nor are ours
              input              our tunnels accept packets from peers to their local address only;
                                 loopback no connection from elsewhere, whichever device has `route_localnet`
                                 a routing daemon hears no pod
              forward, last      no forwarded packet enters a node's tunnel, none of a pod reaches a routing daemon;
                                 established flows are marked for the fast path
              postrouting, nat   traffic that leaves the pod network gets the node's address, and ports that the node leaves to it
    bridge    prerouting         the same for pods on a bridge, with their MAC; unknown protocols are dropped
              forward            a pod receives from other ports packets to its own address, ARP and neighbour discovery

Pod-to-pod traffic is tracked like any other, except the outer packets of our tunnels. Established flows without NAT are marked
after all filters, so that the fast path learns them (`fastpath.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from percale.model.addresses import IPNetwork
from percale.render.network.fastpath import MARK as FASTPATH_MARK
from percale.render.network.tunnels import IP_IN_IP
from percale.render.nft.objects import Field, SetSpec, TableFamily, TableName, TableSpec

POD_DEVICE_PREFIX = "pcl"
"""The prefix of all pod devices on the node, and of no others."""

KUBE_PROXY_MARK = 0x4000
"""kube-proxy masquerades packets with this mark itself."""

FORWARDED_PORTS = "1024-32767"
"""What forwarded connections are masqueraded with: source ports and ICMP identifiers. The node's own connections get others by
themselves (`net.ipv4.ip_local_port_range`, 32768 to 60999), so that no pod can take them all towards a server."""

NODE_PORTS = "32768-65535"
"""The same for connections of the node itself that are masqueraded."""

_BEFORE_FRAGMENTS = -450
"""Priority: connection tracking puts fragments together at -400, by addresses alone and from whichever device."""
LONGEST_DISCOVERY = 32
"""Bytes after the IPv6 header: a neighbour solicitation or advertisement with one option."""
_LONGEST_ARP = 46
"""Bytes, with the padding of a minimum frame."""
_SOURCE6, _TARGET6 = 8 * (14 + 8), 8 * (14 + 40 + 8)
"""Bit offsets of the IPv6 source and of a neighbour discovery message's target in an untagged frame. nft has no name for the
target, and a set has one type for both."""
DISCOVERY = "nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect"

_QUOTED = {"ip": f"@th,{8 * (8 + 16)},32", "ip6": f"@th,{8 * (8 + 24)},128"}
"""Where an ICMP error has the destination of the packet that it is about, as bits: for nft it is nothing but payload."""
_ERRORS = {
    "ip": "icmp type { destination-unreachable, source-quench, redirect, time-exceeded, parameter-problem }",
    "ip6": "icmpv6 type < 128",
}
"""Errors accepted as related to their flow, and by sockets and routes."""

_ICMP = {"ip": "icmp", "ip6": "icmpv6"}

_LATER = {"ip": "ip frag-off & 0x1fff != 0", "ip6": "frag frag-off != 0"}
"""Not a first fragment: it has no ICMP type to match, and its first fragment was checked."""

_ROUTED = """\
set cluster {{
    type {address}
    flags interval
    comment "the pod network; empty when nothing is to be masqueraded"
}}

set localpods {{
    type {address}
    flags interval
    comment "this node's part of the pod network; empty likewise"
}}

set routedpods {{
    type {address}
    flags interval
    comment "IP pools whose pods keep their address outside"
}}

set sources {{
    type ifname . {address}
    comment "a pod's device and the address that it may send from"
}}

set quoted {{
    typeof iifname . {quoted}
    comment "likewise, as bits: destinations of packets that the pod sends ICMP errors about"
}}

set tunnels {{
    type inet_service
    comment "UDP ports of tunnels between nodes"
}}

set localtunnels {{
    type inet_service
    comment "those of this node's own tunnels"
}}

set localprotocols {{
    type inet_proto
    comment "IP in IP, where this node has such a tunnel"
}}

set tunnelendpoints {{
    type {address}
    comment "local addresses of this node's tunnels"
}}

set peers {{
    type {address}
    comment "public addresses of the other nodes"
}}

set sessions {{
    type inet_proto . inet_service
    comment "where this node's routing daemon and its neighbours take messages"
}}

set speakers {{
    type {address}
    comment "neighbours of this node's routing daemon"
}}

set pods {{
    type {address}
    flags interval
    comment "the pod network, always"
}}

counter spoofed {{
    comment "packets of pods with a foreign source, into a tunnel, or ICMP errors about foreign packets"
}}

counter loopback {{
    comment "packets from other devices to or from loopback addresses"
}}

chain output {{
    type filter hook output priority raw; policy accept;
    udp dport @localtunnels {ip} daddr @peers {ip} saddr @tunnelendpoints notrack comment "tunnels: inner packets are tracked"
    meta l4proto @localprotocols {ip} daddr @peers {ip} saddr @tunnelendpoints notrack comment "likewise"
}}

chain input {{
    type filter hook input priority filter; policy accept;
{loopback}\
    udp dport @tunnels goto tunnel-input comment "a tunnel between nodes"
    meta l4proto {ipip} goto tunnel-input comment "IP in IP between nodes"
    meta l4proto . th dport @sessions jump session-input comment "the routing daemon"
}}

chain session-input {{
    {ip} saddr @pods counter name spoofed drop comment "a pod is no neighbour"
    ct status dnat counter name spoofed drop comment "redirected to the routing daemon by DNAT"
}}

chain tunnel-input {{
    {ip} saddr @pods counter name spoofed drop comment "a pod could send from any inner source"
    ct status dnat counter name spoofed drop comment "redirected into the tunnel by DNAT"
    udp dport != @localtunnels return comment "not a tunnel of this node"
    meta l4proto {ipip} meta l4proto != @localprotocols return comment "likewise"
    {ip} daddr @tunnelendpoints {ip} saddr @peers return comment "from a peer to the tunnel"
    counter name spoofed drop comment "not from a peer to the tunnel"
}}

chain forward {{
    type filter hook forward priority 200; policy accept;
    udp dport @tunnels jump tunnel-forward comment "a tunnel between nodes, or a pod's port of that number"
    meta l4proto {ipip} jump tunnel-forward comment "IP in IP"
    meta l4proto . th dport @sessions jump session-forward comment "a routing daemon, or a pod's port of that number"
    ct state established ct status & (snat | dnat) == 0 meta mark set meta mark | {shortcut:#x} comment "for the fast path"
}}

chain tunnel-forward {{
    {ip} saddr @pods {ip} daddr != @pods counter name spoofed drop comment "a pod could send from any inner source"
    ct status dnat {ip} daddr != @pods counter name spoofed drop comment "redirected into a tunnel by DNAT"
    {ip} daddr @peers {ip} saddr != @peers counter name spoofed drop comment "only what a node itself sends"
{ends}\
}}

chain session-forward {{
    {ip} saddr @pods {ip} daddr @speakers counter name spoofed drop comment "it would have this node's address"
    {ip} saddr @pods {ip} daddr @peers counter name spoofed drop comment "likewise"
    ct status dnat {ip} daddr @speakers counter name spoofed drop comment "redirected to a routing daemon by DNAT"
    ct status dnat {ip} daddr @peers counter name spoofed drop comment "likewise"
}}

chain tunnel-prerouting {{
    type filter hook prerouting priority raw; policy accept;
    udp dport @localtunnels {ip} saddr @peers {ip} daddr @tunnelendpoints notrack comment "tunnels: inner packets are tracked"
    meta l4proto @localprotocols {ip} saddr @peers {ip} daddr @tunnelendpoints notrack comment "likewise"
}}

chain antispoof {{
    type filter hook prerouting priority {guard}; policy accept;
    iifname != "{prefix}*" accept comment "not from a pod"
    {errors} goto icmp-errors comment "ICMP errors"
    iifname . {ip} saddr @sources accept comment "a pod's own address"
{exceptions}\
    counter name spoofed drop comment "a pod's packet with a source address that is not the pod's"
}}

chain icmp-errors {{
    {later} iifname . {ip} saddr @sources accept comment "a later fragment"
{redirects}\
    iifname . {ip} saddr @sources iifname . {quoted} @quoted accept comment "about a packet to the pod, from it"
    counter name spoofed drop comment "not about a packet to the pod, or a foreign source"
}}

chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & {mark:#x} == {mark:#x} return comment "kube-proxy translates this itself"
    {ip} saddr @localpods {ip} daddr @cluster return comment "from our pods to pods"
    {ip} saddr @cluster {ip} daddr @localpods return comment "from pods to our pods"
    {ip} saddr != @cluster {ip} daddr @localpods return comment "from outside to our pods: they see the client"
    {ip} saddr @routedpods {ip} daddr != @cluster return comment "an IP pool without natOutgoing"
    {ip} saddr @cluster {ip} daddr != {multicast} goto masquerade-forwarded comment "from pods to the outside"
    {ip} saddr != @cluster {ip} daddr @cluster goto masquerade-forwarded comment "from outside to pods of other nodes"
}}

chain masquerade-forwarded {{
    meta l4proto {{ tcp, udp, sctp, {icmp} }} masquerade to :{ports} fully-random comment "the node's own get other ports"
    masquerade fully-random
}}
"""

_ENDS = """\
    {ip} daddr @pods {ip} daddr & {hosts} <= {last} counter name spoofed drop comment "addresses of tunnel and bridge"
"""
"""They are the first two of each node's subnet; pods have others."""

_LOOPBACK = """\
    ip daddr 127.0.0.0/8 iifname != "lo" ct direction original counter name loopback drop comment "host ports: answers only"
    ip saddr 127.0.0.0/8 iifname != "lo" counter name loopback drop comment "a loopback source from another device"
"""

_REDIRECTS = """\
    icmp type redirect counter name spoofed drop comment "pods are not routers"
"""

_LINK_LOCAL = """\
    ip6 saddr { ::, fe80::/10 } drop comment "a routed pod's neighbours are permanent"
"""

_BRIDGED = f"""\
set sources {{
    type ifname . ether_addr . ipv4_addr
    comment "a pod's bridge port, its MAC and an address of its own"
}}

set sources6 {{
    type ifname . ether_addr . ipv6_addr
    comment "the same for IPv6"
}}

set quoted {{
    typeof iifname . {_QUOTED["ip"]}
    comment "a bridge port and the pod's own address, as bits: destinations of packets that the pod sends ICMP errors about"
}}

set quoted6 {{
    typeof iifname . {_QUOTED["ip6"]}
    comment "the same for IPv6"
}}

set neighbours {{
    typeof iifname . ether saddr . @ll,{_SOURCE6},128
    comment "likewise, and the link-local address, as bits: for neighbour discovery"
}}

counter spoofed {{
    comment "frames of pods with a foreign source, or of other protocols"
}}

chain antispoof {{
    type filter hook prerouting priority dstnat; policy accept;
    iifname != "{POD_DEVICE_PREFIX}*" accept comment "not from a pod"
    ether type vmap {{ ip : goto antispoof4, ip6 : goto antispoof6, arp : goto antispoof-arp }} comment "protocols of pods"
    counter name spoofed drop comment "not seen by policies: VLAN tags, 802.3, other protocols"
}}

chain antispoof4 {{
    {_ERRORS["ip"]} goto icmp-errors4 comment "ICMP errors"
    iifname . ether saddr . ip saddr @sources accept comment "a pod's own MAC and address"
    counter name spoofed drop comment "a pod's packet with a source that is not the pod's"
}}

chain antispoof6 {{
    icmpv6 type {{ {DISCOVERY} }} goto antispoof-nd comment "neighbour discovery"
    {_ERRORS["ip6"]} goto icmp-errors6 comment "ICMP errors"
    iifname . ether saddr . ip6 saddr @sources6 accept comment "a pod's own MAC and address"
    ip6 saddr {{ ::, fe80::/10 }} drop comment "link-local traffic, which no policy can evaluate"
    counter name spoofed drop comment "a pod's packet with a source that is not the pod's"
}}

chain icmp-errors4 {{
    {_LATER["ip"]} iifname . ether saddr . ip saddr @sources accept comment "a later fragment"
    icmp type redirect counter name spoofed drop comment "pods are not routers"
    iifname . ether saddr . ip saddr @sources iifname . {_QUOTED["ip"]} @quoted accept comment "about a packet to the pod"
    counter name spoofed drop comment "not about a packet to the pod, or a foreign source"
}}

chain icmp-errors6 {{
    {_LATER["ip6"]} iifname . ether saddr . ip6 saddr @sources6 accept comment "a later fragment"
    iifname . ether saddr . ip6 saddr @sources6 iifname . {_QUOTED["ip6"]} @quoted6 accept comment "about a packet to the pod"
    counter name spoofed drop comment "not about a packet to the pod, or a foreign source"
}}

chain antispoof-arp {{
    meta length > {_LONGEST_ARP} counter name spoofed drop comment "more than ARP and its padding"
    iifname . ether saddr . arp saddr ip @sources iifname . arp saddr ether . arp saddr ip @sources accept comment "the pod's"
    arp operation request arp saddr ip 0.0.0.0 iifname . ether saddr . arp daddr ip @sources accept comment "address probe"
    counter name spoofed drop comment "ARP for a foreign address"
}}

chain antispoof-nd {{
    ip6 hoplimit != 255 counter name spoofed drop comment "it was forwarded"
    ip6 nexthdr != icmpv6 counter name spoofed drop comment "extension headers"
    ip6 length > {LONGEST_DISCOVERY} counter name spoofed drop comment "more than a target and an option"
    icmpv6 type nd-neighbor-solicit ip6 saddr :: goto antispoof-nd-target comment "duplicate address detection"
    iifname . ether saddr . @ll,{_SOURCE6},128 != @neighbours counter name spoofed drop comment "a foreign source"
    icmpv6 type nd-neighbor-solicit accept comment "the pod may resolve any address"
    icmpv6 type nd-neighbor-advert goto antispoof-nd-target comment "and advertise its own"
    icmpv6 type nd-router-solicit drop comment "no router sends advertisements"
    counter name spoofed drop comment "pods are not routers"
}}

chain antispoof-nd-target {{
    iifname . ether saddr . @ll,{_TARGET6},128 @neighbours accept comment "the target is the pod's own"
    counter name spoofed drop comment "a foreign target"
}}

chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname != "{POD_DEVICE_PREFIX}*" accept comment "not to a pod"
    ether type vmap {{ ip : goto forward4, ip6 : goto forward6, arp : accept }} comment "ARP is checked in prerouting"
    drop comment "other protocols"
}}

chain forward4 {{
    oifname . ether daddr . ip daddr @sources accept comment "to the pod's own address: policies evaluate it"
    drop comment "to a foreign address, or broadcast"
}}

chain forward6 {{
    oifname . ether daddr . ip6 daddr @sources6 accept comment "to the pod's own address: policies evaluate it"
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept comment "checked in prerouting"
    drop comment "to a foreign address, or broadcast"
}}
"""


def network_tables(own: Iterable[IPNetwork] = ()) -> tuple[TableSpec, ...]:
    """All three. `own` are this node's subnets: those of all nodes have the same size.

    A table without elements accepts everything, except from pods' devices.
    """
    sizes = {subnet.version: subnet for subnet in own}
    return (
        _routed("ip", "ipv4_addr", "bits32", multicast="224.0.0.0/4", own=sizes.get(4), loopback=_LOOPBACK),
        _routed("ip6", "ipv6_addr", "bits128", multicast="ff00::/8", own=sizes.get(6), exceptions=_LINK_LOCAL),
        TableSpec(TableName("bridge"), _BRIDGED, _BRIDGED_SETS),
    )


def _routed(
    ip: TableFamily,
    address: Field,
    bits: Field,
    *,
    multicast: str,
    own: IPNetwork | None,
    loopback: str = "",
    exceptions: str = "",
) -> TableSpec:
    last = type(own.network_address)(1) if own is not None else None
    text = _ROUTED.format(
        address=address,
        ip=ip,
        ipip=IP_IN_IP,
        multicast=multicast,
        loopback=loopback,
        exceptions=exceptions,
        errors=_ERRORS[ip],
        icmp=_ICMP[ip],
        ports=FORWARDED_PORTS,
        redirects=_REDIRECTS if ip == "ip" else "",
        quoted=_QUOTED[ip],
        later=_LATER[ip],
        ends=_ENDS.format(ip=ip, hosts=own.hostmask, last=last) if own is not None else "",
        guard=_BEFORE_FRAGMENTS,
        prefix=POD_DEVICE_PREFIX,
        mark=KUBE_PROXY_MARK,
        shortcut=FASTPATH_MARK,
    )
    return TableSpec(TableName(ip), text, _routed_sets(address, bits))


def _routed_sets(address: Field, bits: Field) -> tuple[SetSpec, ...]:
    return (
        *(SetSpec(name, (address,), interval=True) for name in ("cluster", "localpods", "routedpods", "pods")),
        *(SetSpec(name, (address,)) for name in ("tunnelendpoints", "peers", "speakers")),
        *(SetSpec(name, ("inet_service",)) for name in ("tunnels", "localtunnels")),
        SetSpec("localprotocols", ("inet_proto",)),
        SetSpec("sessions", ("inet_proto", "inet_service")),
        SetSpec("sources", ("ifname", address)),
        SetSpec("quoted", ("ifname", bits)),
    )


_BRIDGED_SETS = (
    SetSpec("sources", ("ifname", "ether_addr", "ipv4_addr")),
    SetSpec("sources6", ("ifname", "ether_addr", "ipv6_addr")),
    SetSpec("quoted", ("ifname", "bits32")),
    SetSpec("quoted6", ("ifname", "bits128")),
    SetSpec("neighbours", ("ifname", "ether_addr", "bits128")),
)
