"""Two nodes, their pods and a host outside as namespaces: each node runs the real table, fed by an evaluator of its own.

    10.0.1.1  10.0.1.2, fd00::1:1          10.0.2.1  10.0.2.2, fd00::2:1      the addresses of tests/unit/policy/small_worlds.py
        └──────┬──────┘                        └──────┬──────┘
     n1 192.168.1.1, fd01::1              n2 192.168.1.2, fd01::2
               └── bridge in `outside`: 203.0.113.7, 2001:db8::7 ──┘

`test_policy_worlds.py` and `test_policy_states.py` put objects and compare what packets do with what an evaluator says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from msgspec.structs import replace
from tests.kernel.conftest import Space
from tests.kernel.inside import inside
from tests.kernel.policy_probes import Prober
from tests.unit.policy.oracle import Question
from tests.unit.policy.small_worlds import ELSEWHERE, NODES, PORTS, Change

from percale.kernel.netlink.conntrack import Conntrack
from percale.kernel.netlink.socket import Request
from percale.kernel.netns import NetnsThread
from percale.kernel.nftables.table import KernelNftTable
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node, NodeAddress
from percale.model.pod import Pod
from percale.policy.evaluator import Evaluator, PolicyDelta
from percale.policy.verdict import Flow, Verdict
from percale.render.nft.objects import Transaction
from percale.render.policy.renderer import PolicyRenderer

HOMES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "n1": (("10.0.1.1",), ("10.0.1.2", "fd00::1:1")),
    "n2": (("10.0.2.1",), ("10.0.2.2", "fd00::2:1")),
}
"""The pods' wires: by node, the addresses of each."""
NODE_OF = {address: node for node, pods in HOMES.items() for pod in pods for address in pod}
_PREFIXES = {"n1": ("10.0.1.0/24", "fd00::1:0/112"), "n2": ("10.0.2.0/24", "fd00::2:0/112")}
_EVERYWHERE = [*NODE_OF, *(each for both in NODES.values() for each in both), *ELSEWHERE]
QUESTIONS = [
    Question(source, destination, protocol, port)
    for source in _EVERYWHERE
    for destination in _EVERYWHERE
    if source != destination and (":" in source) == (":" in destination)
    for protocol, port in PORTS
]
_MAC = "02:00:00:00:00:77"
_HOST_MAC = "ee:ee:ee:ee:ee:ee"
_DELETE_FLOWS = 0x102
"""ctnetlink: without a tuple, all of them."""
_SETTINGS = (
    "for c in all default; do echo 0 > /proc/sys/net/ipv6/conf/$c/accept_dad; done; ip link set lo up; "
    "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
)


def asked(evaluator: Evaluator, question: Question) -> Verdict:
    source, destination = (
        evaluator.flow_end(ip_address(each).packed) for each in (question.source, question.destination)
    )
    return evaluator.evaluate(Flow(source, destination, question.protocol, question.port))


def wired(change: Change) -> Change | None:
    """The change as it can happen on these wires: pods are where their addresses are, and nodes stay and say theirs."""
    match change:
        case Node():
            addresses = tuple(NodeAddress(type="InternalIP", address=each) for each in NODES[change.metadata.name])
            return replace(change, status=replace(change.status, addresses=addresses))
        case Pod() if not change.spec.hostNetwork and change.status.podIPs:
            node = NODE_OF[change.status.addresses[0]]
            here = tuple(each for each in change.status.podIPs if NODE_OF[each.ip] == node)
            return replace(change, spec=replace(change.spec, nodeName=node), status=replace(change.status, podIPs=here))
        case (kind, _) if kind is Node:
            return None
    return change


class WiredNode:
    """A node's namespace, its evaluator and its table."""

    def __init__(self, name: str, space: Space) -> None:
        self.name = name
        self.space = space
        self.nft_table = KernelNftTable(NetnsThread(space.descriptor))
        self.conntrack = inside(space, Conntrack)
        self.forget()

    def forget(self) -> None:
        """As an agent that starts."""
        self.evaluator = Evaluator()
        self.table = PolicyRenderer(self.evaluator, self.name)

    async def change(self, changes: Iterable[Change]) -> None:
        await self.nft_table.apply(self.table.update([touch(self.evaluator, each) for each in changes]))

    async def begin(self, changes: Iterable[Change]) -> None:
        """An agent that starts, and finds in the kernel whatever the one before left there."""
        self.forget()
        self.table.update([touch(self.evaluator, each) for each in changes])
        await self.nft_table.sync(self.table.snapshot())

    async def diff(self) -> Transaction:
        """What the kernel holds otherwise than a fresh start over the same objects would have it."""
        fresh = PolicyRenderer(self.evaluator, self.name)
        everyone = frozenset(self.evaluator.selector_index.pod_ids.values())
        policies = tuple((None, policy) for policy in self.evaluator.policies.values())
        fresh.update([PolicyDelta(policies=policies, selected=everyone)])
        return await self.nft_table.sync(fresh.snapshot())

    def flush_flows(self) -> None:
        assert self.conntrack._socket.request([Request(_DELETE_FLOWS, 0, bytes(4))]) == [None]


def touch(evaluator: Evaluator, change: Change) -> PolicyDelta:
    return evaluator.put(change) if isinstance(change, Object) else evaluator.remove(*change)


class Wires:
    """Made once for many worlds; `down` leaves nothing behind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._spaces: list[Space] = []
        self.runner = asyncio.Runner()
        self.outside = self._space()
        self.pods: dict[str, Space] = {}
        """By each of its addresses."""
        self._wire_outside()
        self.nodes = {name: WiredNode(name, self._wire_node(name)) for name in HOMES}
        places = {address: space for space in self._spaces for address in self._addresses(space)}
        self.prober = Prober(places, {port for _, port in PORTS if port is not None})
        self.evaluator = Evaluator()
        self._objects: dict[tuple[type[Object], ObjectKey], Object] = {}
        for node in self.nodes.values():
            self.runner.run(node.nft_table.start())
            self.runner.run(node.nft_table.sync(Transaction()))
        self.prober.expect(QUESTIONS, set(QUESTIONS))  # until all neighbours have found each other

    def down(self) -> None:
        self.prober.close()
        for node in self.nodes.values():
            self.runner.run(node.nft_table.stop())
            node.conntrack.close()
        self.runner.close()
        for space in self._spaces:
            space.close()

    # Worlds

    def begin(self, changes: Sequence[Change]) -> None:
        """Another world, as agents that start find it; the tables hold the last one's rules."""
        self.evaluator = Evaluator()
        possible = self._judged(changes)
        for node in self.nodes.values():
            self.runner.run(node.begin(possible))

    def change(self, changes: Sequence[Change]) -> None:
        """A step of the running tables: all of it is one edit of each."""
        possible = self._judged(changes)
        for node in self.nodes.values():
            self.runner.run(node.change(possible))

    def _judged(self, changes: Iterable[Change]) -> list[Change]:
        possible = [change for each in changes if (change := wired(each)) is not None]
        for change in possible:
            touch(self.evaluator, change)
        return possible

    def wrong(self) -> list[str]:
        """New flows whose packets do otherwise than the evaluator says."""
        for node in self.nodes.values():
            node.flush_flows()
        allowed = {question for question in QUESTIONS if asked(self.evaluator, question).allowed}
        passed = self.prober.expect(QUESTIONS, allowed)
        return [
            f"{'passed' if question in passed else 'did not pass'}: {question}: {asked(self.evaluator, question)}"
            for question in QUESTIONS
            if (question in passed) != (question in allowed)
        ]

    def differences(self) -> list[Transaction]:
        """What each kernel holds otherwise than a fresh start would have it."""
        return [edit for node in self.nodes.values() if (edit := self.runner.run(node.diff()))]

    # Wires

    def _space(self) -> Space:
        space = Space(self._directory / f"netns{len(self._spaces)}")
        self._spaces.append(space)
        space.shell(_SETTINGS)
        return space

    def _addresses(self, space: Space) -> list[str]:
        """Those that are asked about."""
        if space is self.outside:
            return list(ELSEWHERE)
        if space in self.pods.values():
            return [address for address, there in self.pods.items() if there is space]
        return next(list(NODES[name]) for name, node in self.nodes.items() if node.space is space)

    def _wire_outside(self) -> None:
        self.outside.shell(
            "ip link add br0 type bridge mcast_snooping 0; ip link set br0 up; "
            "ip addr add 192.168.1.254/24 dev br0; ip addr add fd01::fe/64 dev br0 nodad; "
            + "; ".join(f"ip addr add {address} dev lo" for address in ELSEWHERE)
        )
        for name, prefixes in _PREFIXES.items():
            for prefix, via in zip(prefixes, NODES[name], strict=True):
                self.outside.shell(f"ip route add {prefix} via {via}")

    def _wire_node(self, name: str) -> Space:
        node = self._space()
        ipv4, ipv6 = NODES[name]
        self.outside.shell(
            f"ip link add {name} type veth peer name eth0 netns {node.path}; ip link set {name} master br0 up"
        )
        node.shell(
            f"ip link set eth0 up; ip addr add {ipv4}/24 dev eth0; ip addr add {ipv6}/64 dev eth0 nodad; "
            "ip route add default via 192.168.1.254; ip -6 route add default via fd01::fe"
        )
        for other, prefixes in _PREFIXES.items():
            if other != name:
                for prefix, via in zip(prefixes, NODES[other], strict=True):
                    node.shell(f"ip route add {prefix} via {via}")
        for number, addresses in enumerate(HOMES[name]):
            pod = self._space()
            self._wire_pod(node, pod, f"pod{number}", addresses)
            self.pods |= dict.fromkeys(addresses, pod)
        return node

    @staticmethod
    def _wire_pod(node: Space, pod: Space, device: str, addresses: tuple[str, ...]) -> None:
        node.shell(
            f"ip link add {device} address {_HOST_MAC} type veth peer name eth0 netns {pod.path}; ip link set {device} up"
        )
        pod.shell(
            f"ip link set eth0 address {_MAC} up; ip route add 169.254.1.1 dev eth0; "
            "ip route add default via 169.254.1.1; ip -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0; "
            f"ip neigh add 169.254.1.1 lladdr {_HOST_MAC} dev eth0; "
            f"ip neigh add fe80::ecee:eeff:feee:eeee lladdr {_HOST_MAC} dev eth0"
        )
        for address in addresses:
            node.shell(f"ip route add {address} dev {device}; ip neigh add {address} lladdr {_MAC} dev {device}")
            pod.shell(f"ip addr add {address} dev eth0" + (" nodad" if ":" in address else ""))
