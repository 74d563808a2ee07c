"""A node whose server only a friend may reach, and a stranger who knocks in every way: by itself, by a Service, as the friend."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from tests import builders
from tests.kernel.adversary import frames
from tests.kernel.adversary.worlds import packet_socket
from tests.kernel.agent.cluster import NETNS, Cluster, Pod, sh
from tests.kernel.agent.policies import DENY, PORT, Policies, allowing
from tests.kernel.agent.services import VIP, Services
from tests.kernel.knocking import Knocker, Knocking
from tests.waiting import until

from percale.render.network.pod_veth import HOST_MAC

PLAIN, SERVICE, SPOOFED = "plain", "service", "spoofed"
EVERYTHING = frozenset({PLAIN, SERVICE, SPOOFED})


class Guarded:
    """Node 1 with a server that only its friend may reach, behind a Service too; knocked at by a stranger."""

    def __init__(self, cluster: Cluster, down: ExitStack, wiring: str = "routed") -> None:
        self.cluster = cluster
        self.policies = Policies(cluster)
        self.services = Services(cluster)
        down.callback(self.services.close)
        self.services.node(1)
        self.policies.policy("deny", DENY)
        self.policies.policy("friend", allowing("server", "friend"))
        self.node = cluster.node(1, services={"cidrs": ["10.96.0.0/16"]})
        self.node.settings["cni"]["wiring"] = wiring
        self.node.start()
        self.pods = {name: self.policies.pod(self.node, name) for name in ("server", "friend", "stranger")}
        ports = [{"name": "udp", "port": 80, "targetPort": PORT, "protocol": "UDP"}]
        self.services.service(type="ClusterIP", ports=ports)
        self.services.slice(self.pods["server"])
        self.point_the_slice()
        until(lambda: VIP in self.table("inet", "percale-services"), "the Service is there")
        self.knocking = self._knock(wiring, down)

    def point_the_slice(self, *others: str) -> None:
        """At the server's port, and that of others."""
        ports = [{"name": "udp", "port": PORT, "protocol": "UDP"}]
        self.services.write("slice-web", builders.endpoint_slice("web", self.address("server"), *others, ports=ports))

    def _knock(self, wiring: str, down: ExitStack) -> Knocking:
        stranger, server = self.pods["stranger"], self.pods["server"]
        plain = Knocker(NETNS / "stranger", self.address("server"), PORT)
        service = Knocker(NETNS / "stranger", VIP, 80)
        raw = packet_socket("stranger", 0)
        raw.bind(("eth0", 0))
        for each in (plain, service, raw):
            down.callback(each.close)
        own, to = mac(stranger), HOST_MAC if wiring == "routed" else mac(server)

        def spoofed(mark: bytes) -> None:
            port = 1024 + self.knocking.rounds % 60000
            packet = frames.packet(self.address("friend"), self.address("server"), frames.udp(port, PORT, mark))
            raw.send(frames.ethernet(own, to, packet))

        knocks: dict[str, Callable[[bytes], object]] = {PLAIN: plain, SERVICE: service, SPOOFED: spoofed}
        return Knocking(NETNS / "server", self.address("server"), PORT, knocks)

    def address(self, name: str) -> str:
        return self.pods[name].addresses[0]

    def table(self, *name: str) -> str:
        return self.node.sh("nft", "-s", "list", "table", *name, check=False)

    def tables(self) -> list[str]:
        """The words of all that is ours; the order of a set's elements is chance. Flows that are known come and go."""
        listed = (self.table(family, "percale") for family in ("ip", "ip6", "bridge", "inet"))
        return sorted(" ".join([*listed, self.table("inet", "percale-services")]).replace(",", " ").split())


def mac(pod: Pod) -> str:
    shown = sh(pod.name, "ip", "-o", "link", "show", "eth0")
    return shown.partition("link/ether ")[2].split()[0]
