"""A real flanneld on a node of the test's cluster, and pods as its CNI plugin attaches them: bridge and host-local.

flannel's plugin itself cannot be built from a module; `PLUGIN` below hands over to the bridge plugin as that one does: with
subnet.env's values, and with what it handed over kept for the DEL. cnitool is the container runtime, with the cache of real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.api_server import AGENT, program
from tests.cluster.cnitool import STATE, cnitool
from tests.cluster.kubernetes_cluster import KubernetesCluster
from tests.etcd_server import EtcdServer
from tests.kernel.agent.cluster import NETNS, Cluster, Node, Pod
from tests.waiting import PATIENCE, until

PLUGINS = Path("/usr/lib/cni")
PLUGIN = """\
#!/usr/bin/env python3
import json, os, subprocess, sys
given = json.load(sys.stdin)
if os.environ["CNI_COMMAND"] == "VERSION":
    print(json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"]}))
    sys.exit()
kept = os.path.join(given["dataDir"], os.environ["CNI_CONTAINERID"])
if os.environ["CNI_COMMAND"] == "ADD":
    env = dict(line.strip().split("=") for line in open(given["subnetFile"]))
    names = (("FLANNEL_NETWORK", "FLANNEL_SUBNET"), ("FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"))
    pairs = [(env[network], env[subnet]) for network, subnet in names if network in env]
    subnets = [__import__("ipaddress").ip_interface(subnet).network for _, subnet in pairs]
    delegate = {
        "cniVersion": given["cniVersion"], "name": given["name"], "type": "bridge", "isGateway": True,
        "ipMasq": env["FLANNEL_IPMASQ"] != "true", "mtu": int(env["FLANNEL_MTU"]), **given.get("delegate", {}),
        "ipam": {"type": "host-local", "ranges": [[{"subnet": str(subnet)}] for subnet in subnets],
                 "routes": [{"dst": network} for network, _ in pairs]},
    }
    os.makedirs(given["dataDir"], exist_ok=True)
    with open(kept, "w") as file:
        json.dump(delegate, file)
elif os.path.exists(kept):
    delegate = json.load(open(kept))
    os.unlink(kept)
else:
    sys.exit()
done = subprocess.run([os.environ["CNI_PATH"].split(":")[-1] + "/bridge"], input=json.dumps(delegate), text=True)
sys.exit(done.returncode)
"""


@dataclass
class Flannel:
    """flanneld on a node; `flags` say which store."""

    node: Node
    flags: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def network(self) -> str:
        """The name of the node's CNI network: /var/lib/cni is all nodes'."""
        return f"{self.node.name}-cbr0"

    @property
    def subnet_file(self) -> Path:
        return Path(self.node.settings["subnetFile"])

    @property
    def log(self) -> str:
        return (self.node.directory / "flanneld.log").read_text()

    @property
    def env(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.subnet_file.read_text().splitlines())

    @property
    def subnet(self) -> str:
        """Of IPv4, as leases name it."""
        return self.env["FLANNEL_SUBNET"].replace(".1/", ".0/")

    def start(self) -> Flannel:
        """Returns when it serves the node."""
        enter = ["nsenter", f"--net={NETNS / self.node.name}", str(program("flanneld"))]
        arguments = ["--iface=eth0", "--ip-masq", f"--subnet-file={self.subnet_file}", "--healthz-port=10252"]
        with (self.node.directory / "flanneld.log").open("ab") as log:
            environment = {**os.environ, **self.variables}
            command = [*enter, *self.flags, *arguments]
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        self.process = process

        def ready() -> bool:
            assert process.poll() is None, self.log[-3000:]
            return self.node.sh("curl", "-s", "http://127.0.0.1:10252/readyz", check=False) == "flanneld is ready"

        until(ready, "flanneld is ready")
        return self

    def stop(self) -> None:
        """Its lease, device, routes and rules stay."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=PATIENCE)

    def install(self, delegate: dict[str, Any] | None = None) -> None:
        """Its CNI configuration and plugin, as its DaemonSet does."""
        directory, bin_dir = self.node.directory / "net.d", self.node.directory / "flannel-bin"
        directory.mkdir(exist_ok=True)
        bin_dir.mkdir(exist_ok=True)
        (bin_dir / "flannel").write_text(PLUGIN)
        (bin_dir / "flannel").chmod(0o755)
        plugin = {
            "type": "flannel",
            "subnetFile": str(self.subnet_file),
            "dataDir": str(STATE / "flannel"),
            "delegate": {"hairpinMode": True, "isDefaultGateway": True, **(delegate or {})},
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        document = {"name": self.network, "cniVersion": "0.3.1", "plugins": [plugin, portmap]}
        (directory / "10-flannel.conflist").write_text(json.dumps(document))

    def pod(self, name: str, **capabilities: Any) -> Pod:
        """Attached by the node's CNI configuration."""
        pod = Pod(self.node, name)
        self.node.cluster.namespace(name)
        output = self.cnitool("add", name, **capabilities)
        pod.addresses = tuple(each["address"].partition("/")[0] for each in json.loads(output)["ips"])
        return pod

    def cnitool(self, verb: str, pod: str, network: str | None = None, **capabilities: Any) -> str:
        """The runtime's call; its error fails the test."""
        directories = (self.node.directory / "bin", self.node.directory / "flannel-bin", PLUGINS)
        done = cnitool(self.node, verb, network or self.network, pod, directories, capabilities)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


NETWORKS: dict[str, dict[str, Any]] = {
    "ipv4": {"Network": "10.244.0.0/16"},
    "dual": {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:244::/48"},
}


class World:
    """Nodes of both kinds in one network, over one store."""

    def __init__(self, cluster: Cluster, network: dict[str, Any]) -> None:
        self.cluster = cluster
        self.network = network
        self.dual = "IPv6Network" in network
        self._flannels: list[Flannel] = []

    def percale(self, number: int, **settings: Any) -> Node:
        """Not started yet."""
        return self.cluster.node(number, ipv6=self.dual, **self.join(number), **settings)

    def flannel(self, number: int) -> Flannel:
        """Not started yet; on a node of its own, or on one that there is."""
        node = self.cluster.nodes.get(f"n{number}") or self.percale(number)
        found = Flannel(node, *self.flags(node))
        self._flannels.append(found)
        return found

    def join(self, number: int) -> dict[str, Any]:
        """The agent's settings for the store, in which the node is known from now on."""
        raise NotImplementedError

    def flags(self, node: Node) -> tuple[tuple[str, ...], dict[str, str]]:
        """flanneld's, and its environment."""
        raise NotImplementedError

    def leases(self) -> dict[str, dict[str, Any]]:
        """What is in the store, by the nodes' public addresses, as flannel's etcd values say it."""
        raise NotImplementedError

    def forget(self, node: Node) -> None:
        """The node is gone for good: what an operator or a controller does."""
        raise NotImplementedError

    def close(self) -> None:
        """What each flanneld logged is shown when the test failed."""
        for each in self._flannels:
            each.stop()
            print(f"flanneld of {each.node.name}:\n{each.log}")


class EtcdWorld(World):
    """The network's configuration and all leases in an etcd at the switch."""

    PREFIX = "/coreos.com/network"

    def __init__(self, cluster: Cluster, network: dict[str, Any], etcd: EtcdServer) -> None:
        super().__init__(cluster, network)
        self.etcd = etcd
        etcd.ctl("put", f"{self.PREFIX}/config", json.dumps(network))

    def join(self, number: int) -> dict[str, Any]:
        return {"store": f"etcd:{self.etcd.url}", "network": None}

    def flags(self, node: Node) -> tuple[tuple[str, ...], dict[str, str]]:
        return (f"--etcd-endpoints={self.etcd.url}",), {}

    def keys(self) -> dict[str, dict[str, Any]]:
        """The leases by the end of their keys."""
        prefix = f"{self.PREFIX}/subnets/"
        lines = self.etcd.ctl("get", "--prefix", prefix).splitlines()
        pairs = zip(lines[::2], lines[1::2], strict=True)
        return {key.removeprefix(prefix): json.loads(value) for key, value in pairs}

    def leases(self) -> dict[str, dict[str, Any]]:
        return {value["PublicIP"]: value for value in self.keys().values()}

    def forget(self, node: Node) -> None:
        address = f"192.168.0.{node.name[1:]}"
        (key,) = (key for key, value in self.keys().items() if value["PublicIP"] == address)
        self.etcd.ctl("del", f"{self.PREFIX}/subnets/{key}")


class KubernetesWorld(World):
    """Nodes of an API server, whose annotations are the leases."""

    def __init__(self, kubernetes: KubernetesCluster, network: dict[str, Any]) -> None:
        super().__init__(kubernetes.cluster, network)
        self.kubernetes = kubernetes
        kubernetes.cluster.network = network

    def join(self, number: int) -> dict[str, Any]:
        cidrs = [f"10.244.{number}.0/24", *([f"fd00:244:0:{number}::/64"] if self.dual else [])]
        self.kubernetes.register(number, *cidrs)
        return {"store": f"kubernetes:{self.kubernetes.server.kubeconfig('agent', AGENT)}"}

    def flags(self, node: Node) -> tuple[tuple[str, ...], dict[str, str]]:
        file = node.directory / "net-conf.json"
        file.write_text(json.dumps(self.network))
        kubeconfig = self.kubernetes.server.kubeconfig("admin")
        flags = ("--kube-subnet-mgr", f"--kubeconfig-file={kubeconfig}", f"--net-config-path={file}")
        return flags, {"NODE_NAME": node.name}

    def leases(self) -> dict[str, dict[str, Any]]:
        found = {}
        for node in self.kubernetes.get("nodes")["items"]:
            given = node["metadata"].get("annotations", {})
            texts = {key.removeprefix("flannel.alpha.coreos.com/"): text for key, text in given.items()}
            if "public-ip" in texts:
                data = {"BackendData": "backend-data", "BackendV6Data": "backend-v6-data"}
                found[texts["public-ip"]] = {
                    "PublicIP": texts["public-ip"],
                    "PublicIPv6": texts.get("public-ipv6"),
                    "BackendType": texts["backend-type"],
                    **{
                        field: json.loads(texts[name])
                        for field, name in data.items()
                        if texts.get(name, "null") != "null"
                    },
                }
        return found

    def forget(self, node: Node) -> None:
        self.kubernetes.server.kubectl("delete", "node", node.name)
