"""The lab's underlay: a router with a bridge per segment, and a veth pair to each machine. Called by `machines`.

    fabric (the lab's own namespace): router        node1           outside
    ┌──────────────────────────────────────┐     ┌────────┐      ┌────────┐
    │ br-a 192.168.1.1/24 ◀─ veth node1 ───┼─────┼─ eth0  │      │        │
    │ br-world 203.0.113.1/24 ◀─ outside ──┼─────┼────────┼──────┼─ eth0  │
    └──────────────────────────────────────┘     └────────┘      └────────┘

This is a cluster's environment, so it is built as an administrator builds it, with `ip` and `nft`, and without Percale's
owner marks: the agents treat these devices, addresses and routes as foreign. The router has routes to pods and to load
balancers' addresses for hosts outside the cluster only. The functions that return commands are pure.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from ipaddress import IPv4Address

from percale.errors import LabError
from percale.kernel import sysctl
from percale.kernel.netns import NetnsExecutor, NetnsThread
from percale.lab.machines.router_routes import RouterRoute
from percale.lab.process.bootstrap import NETNS
from percale.lab.spec.topology import Machine, Segment

DEVICE = "eth0"
_NOT_FOR_MACHINES = frozenset(("lo", "all", "default"))
"""Names that no device can have: the router's own device, and sysctl's names for all devices."""
_ROUTER_TABLE = 100
"""The router's routing table for packets from outside hosts."""

ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/fib_multipath_hash_policy": "1",
    "net/ipv6/fib_multipath_hash_policy": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/accept_dad": "0",
}
MACHINE_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}


def bridge(segment: Segment) -> str:
    """The name of a segment's bridge at the router."""
    return f"br-{segment.name}"


def port(machine: str) -> str:
    """The router's end of a machine's veth pair: the machine's name, or one made from it when too long or taken."""
    if len(machine) <= 15 and machine not in _NOT_FOR_MACHINES and not machine.startswith("br-"):
        return machine
    return f"{machine[:9]}-{sha256(machine.encode()).hexdigest()[:5]}"


def mac(address: IPv4Address) -> str:
    """A MAC address derived from the IPv4 address. A bridge without one of its own would take its ports' in turn."""
    return ":".join(f"{byte:02x}" for byte in (2, 0, *address.packed))


def router_lines(segments: Iterable[Segment]) -> list[str]:
    """`ip` commands that build the router."""
    lines = ["link set lo up"]
    for segment in segments:
        mtu = f" mtu {segment.mtu}" if segment.mtu else ""
        lines += [
            f"link add {bridge(segment)} address {mac(segment.gateway.ip)}{mtu} type bridge forward_delay 0 mcast_snooping 0",
            f"address add {segment.gateway} dev {bridge(segment)}",
            f"address add {segment.gateway6} dev {bridge(segment)} nodad",
            f"link set {bridge(segment)} up",
        ]
    return lines


def rule_lines(segments: Iterable[Segment]) -> list[str]:
    """`ip` commands, for each family, that send packets from these segments through the router's table as well."""
    return [f"rule add from all iif {bridge(segment)} lookup {_ROUTER_TABLE}" for segment in segments]


def route_lines(old: Collection[RouterRoute], new: Collection[RouterRoute]) -> list[str]:
    """`ip` commands that replace the old routes, one per subnet, by the new ones."""
    there, wanted = {route.subnet for route in new}, [route for route in new if route not in old]
    gone = [f"route delete {route.subnet} table {_ROUTER_TABLE}" for route in old if route.subnet not in there]
    return gone + [
        f"route replace {route.subnet} table {_ROUTER_TABLE} " + " ".join(f"nexthop via {node}" for node in route.nodes)
        for route in sorted(wanted, key=str)
    ]


def cable_lines(machine: Machine) -> list[str]:
    """`ip` commands at the router that connect a machine, whose name may be a keyword, such as `up`."""
    name, mtu = port(machine.name), f" mtu {machine.segment.mtu}" if machine.segment.mtu else ""
    return [
        f"link add name {name}{mtu} type veth peer name {DEVICE} address {mac(machine.address.ip)}{mtu}"
        f" netns {NETNS / machine.name}",
        f"link set dev {name} master {bridge(machine.segment)} up",
    ]


def machine_lines(machine: Machine) -> list[str]:
    """`ip` commands inside a machine: its addresses and default routes."""
    return [
        "link set lo up",
        f"link set {DEVICE} up",
        f"address add {machine.address} dev {DEVICE}",
        f"address add {machine.address6} dev {DEVICE} nodad",
        f"route add default via {machine.segment.gateway.ip}",
        f"route add default via {machine.segment.gateway6.ip} dev {DEVICE}",
    ]


def build_router(netns: NetnsExecutor, segments: Iterable[Segment], outside: Iterable[Segment]) -> None:
    """Bridges, addresses, forwarding; `outside` are the segments without nodes. Raises LabError."""
    _write_sysctls(netns, ROUTER_SYSCTLS)
    _ip(netns, router_lines(segments))
    for family in ("-4", "-6"):  # `ip rule` takes `from ::/0` for IPv4
        _ip(netns, rule_lines(outside), family)


def serve_programs(netns: NetnsExecutor) -> None:
    """For programs at the router: its loopback device, and routes to pods as outside hosts have them. Raises LabError."""
    _ip(netns, ["link set lo up"])
    for family in ("-4", "-6"):
        _ip(netns, [f"rule add from all iif lo lookup {_ROUTER_TABLE}"], family)


def set_routes(netns: NetnsExecutor, old: Collection[RouterRoute], new: Collection[RouterRoute]) -> None:
    """Replace the old routes of outside hosts by the new ones. Raises LabError."""
    _ip(netns, route_lines(old, new))


def plug_in(netns: NetnsExecutor, machines: Sequence[Machine]) -> None:
    """Connect machines, whose namespaces exist, to the router in `netns`. Raises LabError."""
    for machine in machines:
        machine_netns = _netns_of(machine.name)
        try:
            _write_sysctls(machine_netns, MACHINE_SYSCTLS)
        finally:
            machine_netns.close()
    _ip(netns, [line for machine in machines for line in cable_lines(machine)])
    for machine in machines:
        machine_netns = _netns_of(machine.name)
        try:
            _ip(machine_netns, machine_lines(machine))
        finally:
            machine_netns.close()


def unplug(netns: NetnsExecutor, machine: str) -> None:
    """Delete the veth pair; it may be gone with its namespace already."""
    netns.run(lambda: subprocess.run(["ip", "link", "delete", "dev", port(machine)], capture_output=True, check=False))


Cut = frozenset[str]
"""Two machines between which the router drops all packets."""


def cut_rules(cuts: Collection[Cut]) -> str:
    """An nft script: the router's own table `bridge lab`, which drops what these pairs send each other.

    A packet from a cut machine is marked with its device's number, and dropped where it would leave by the other's
    device: forwarded within a segment, or routed. Addresses are not compared: pods have their own.
    """
    cables = {name: number for number, name in enumerate(sorted({name for cut in cuts for name in cut}), 1)}
    marks = ", ".join(f'"{port(name)}" : {number}' for name, number in cables.items())
    drops = ", ".join(f'{cables[a]} . "{port(b)}"' for cut in sorted(map(sorted, cuts)) for a, b in (cut, cut[::-1]))
    rules = f"""
  set cut {{ type mark . ifname; elements = {{ {drops} }}; }}
  chain arriving {{
    type filter hook prerouting priority -300; policy accept;
    meta mark set iifname map {{ {marks} }}
  }}
  chain switched {{
    type filter hook forward priority -300; policy accept;
    meta mark . oifname @cut drop
  }}
  chain routed {{
    type filter hook output priority -300; policy accept;
    meta mark . oifname @cut drop
  }}
"""
    return f"""\
table bridge lab {{}}
delete table bridge lab
table bridge lab {{
  comment "cables that percale lab cut has cut"{rules if cuts else ""}
}}
"""


def apply_cuts(netns: NetnsExecutor, cuts: Collection[Cut]) -> None:
    """Drop packets between these pairs and no others. Raises LabError."""
    _run(netns, ["nft", "-f", "-"], cut_rules(cuts))


def _netns_of(machine: str) -> NetnsThread:
    with (NETNS / machine).open() as namespace:
        return NetnsThread(namespace.fileno(), name=f"plug-{machine}"[:15])


def _write_sysctls(netns: NetnsExecutor, settings: dict[str, str]) -> None:
    """Sysctls of a family that the kernel lacks are skipped."""

    def write() -> None:
        for name, value in settings.items():
            try:
                sysctl.write(name, value)
            except FileNotFoundError:
                continue

    netns.run(write)


def _ip(netns: NetnsExecutor, lines: Sequence[str], *family: str) -> None:
    _run(netns, ["ip", *family, "-batch", "-"], "\n".join(lines) + "\n")


def _run(netns: NetnsExecutor, command: Sequence[str], text: str) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    try:
        done = netns.run(run)
    except FileNotFoundError as error:
        raise LabError(
            f"{command[0]} is not installed", hint="type: sudo apt-get install -y iproute2 nftables"
        ) from error
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()
        raise LabError(
            f"{' '.join(command)} failed: {reason[0] if reason else done.returncode}", where="the lab's router"
        )
