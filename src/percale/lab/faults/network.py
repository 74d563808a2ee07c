"""Faults of nodes and of the network between them, from flannel's and Kubernetes' issues. Their agents cannot mend them."""

from __future__ import annotations

from percale.lab.faults.fault import ROUTER, Agent, Connection, Fault, Line

_FORWARD = (
    "nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'"
)
_INPUT = (
    "nft add table inet filter; nft add chain inet filter input '{ type filter hook input priority 0; policy accept; }'; "
    "nft add rule inet filter input udp dport 8472 drop"
)
_NARROW = (
    "nft add table inet narrow; nft add chain inet narrow way '{ type filter hook forward priority 0; }'; "
    "nft add rule inet narrow way meta length gt 1400 drop"
)
_SECOND_CABLE = (
    "ip link add name node1-b type veth peer name eth1 netns /run/netns/node1; ip link set node1-b master br-a up"
)
_SECOND_WAY = (
    "sysctl -qw net.ipv4.conf.eth1.arp_announce=2 net.ipv4.conf.eth1.arp_ignore=1 net.ipv4.conf.all.rp_filter=1; "
    "ip address add 192.168.1.201/32 dev eth1; ip link set eth1 up; "
    "ip route add ADDRESS-OF-node3/32 via $(ip route show default | awk '{ print $3 }') dev eth1 onlink"
)

FORWARD_DROP = Fault(
    number=1,
    seen="pods of node2 are reached by no other node",
    mended=(Connection("game/client1", "game/web2"), Connection("game/client2", "game/web1")),
    hints=("ask the doctor on node2", "who else filters there? percale lab node node2 -- nft list ruleset"),
    cause="a table `ip filter` on node2 drops what is forwarded, as Docker's does: FORWARD has the policy drop",
    lines=(Line("node2", _FORWARD),),
    undo=(Line("node2", "nft delete table ip filter"),),
)
TUNNEL_PORT = Fault(
    number=2,
    seen="node3 is up, and its pods are reached by nobody",
    mended=(Connection("game/client1", "game/web3"), Connection("game/client3", "game/web1")),
    hints=("does node3 itself answer? ping its address from node1", "percale lab tcpdump node/node3 -- udp port 8472"),
    cause="a firewall on node3 drops UDP 8472, where the tunnel's packets arrive",
    lines=(Line("node3", _INPUT),),
    undo=(Line("node3", "nft delete table inet filter"),),
)
HUNG_AGENT = Fault(
    number=5,
    seen="what is there goes on, but node3 sees no new pod, policy or Service",
    mended=(Agent("node3"),),
    hints=("percale lab status: whose agent does not answer?", "ask the doctor: the process is there"),
    cause="the agent of node3 hangs (SIGSTOP)",
    lines=(Line("node3", "kill -STOP $(cat /run/percale/node3/agent.pid)"),),
    undo=(Line("node3", "kill -CONT $(cat /run/percale/node3/agent.pid)"),),
)
FOREIGN_ROUTE = Fault(
    number=6,
    seen="node1 does not reach the pods of node2, while node3 does",
    mended=(Connection("game/client1", "game/web2"),),
    hints=(
        "which way do its packets take? percale lab node node1 -- ip route get ADDRESS-OF-web2",
        "whose route is that?",
    ),
    cause="somebody's route on node1 sends half of node2's pod subnet elsewhere: the longer prefix wins",
    lines=(Line("node1", "ip route add HALF-OF-node2 via $(ip route show default | awk '{ print $3 }') dev eth0"),),
    undo=(Line("node1", "ip route delete HALF-OF-node2 dev eth0"),),
)
NARROW_PATH = Fault(
    number=7,
    seen="between nodes small packets pass, and large downloads hang",
    mended=(Connection("game/client1", "game/client3", size=1400),),
    hints=(
        "how large may a packet be? percale lab exec -n game client1 -- ping -s 1372 ADDRESS-OF-client3",
        "ask the doctor",
    ),
    cause="the way between the nodes takes packets of 1400 bytes at most, the nodes' interfaces say 1500",
    lines=(Line(ROUTER, _NARROW),),
    undo=(
        Line(ROUTER, "nft delete table inet narrow"),
        *(Line(node, "ip link set eth0 mtu 1500") for node in ("node1", "node2", "node3")),
    ),
)
NEIGHBOUR = Fault(
    number=8,
    seen="node1 does not reach node2, which stands beside it; node3 reaches both",
    mended=(Connection("game/client1", "game/web2"),),
    hints=(
        "they are on one segment: who is asked for node2's MAC?",
        "percale lab node node1 -- ip neighbour show dev eth0",
    ),
    cause="a permanent neighbour entry on node1 has a MAC for node2 that nobody has",
    lines=(Line("node1", "ip neighbour replace ADDRESS-OF-node2 lladdr 02:00:00:00:be:ef dev eth0 nud permanent"),),
    undo=(Line("node1", "ip neighbour delete ADDRESS-OF-node2 dev eth0"),),
)
REVERSE_PATH = Fault(
    number=9,
    seen="node1 got a second interface, and since then it does not reach the pods of node3",
    mended=(Connection("game/client1", "game/web3"),),
    hints=(
        "do packets come back? percale lab tcpdump node/node1 -- udp port 8472",
        "ask the doctor, or: percale lab node node1 -- ip route get ADDRESS-OF-node3",
    ),
    cause="node3's packets come in by eth0, the route to it leads to eth1: strict reverse path filtering drops them",
    lines=(Line(ROUTER, _SECOND_CABLE), Line("node1", _SECOND_WAY)),
    undo=(
        Line("node1", "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0; ip link delete eth1"),
    ),
)
