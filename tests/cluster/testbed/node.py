"""A node of a testbed: namespaces, containerd and a kubelet."""

from __future__ import annotations

import json
from pathlib import Path

from tests.certificates import Pair
from tests.cluster.testbed import cgroups
from tests.cluster.testbed.images import PAUSE
from tests.cluster.testbed.layout import NAME, Layout, Node
from tests.cluster.testbed.processes import TestbedError, in_holder, in_node, run, start
from tests.waiting import until

_HERE = Path(__file__).parent
_PATIENCE = 120.0
_NAMESPACES = ("--mount", "--propagation=private", "--uts", "--ipc", "--pid", "--fork")


def start_node(layout: Layout, node: Node, serving: Pair, images: list[Path]) -> None:
    """Returns once its kubelet has been started."""
    directory = layout.root / node.name
    cgroups.create(node.name)
    environment = {
        "NODE": node.name,
        "NODE_IPS": " ".join(node.addresses),
        "NODE_DIR": str(directory),
        "PAUSE_IMAGE": PAUSE,
        "INIT": str(layout.programs / "init"),
    }
    enter = in_holder(layout, node.name)
    start(
        layout, node.name, f"{node.name}-init", [*enter, "unshare", *_NAMESPACES, str(_HERE / "node-init")], environment
    )
    until((directory / "pid").exists, f"node {node.name} has its file system", patience=_PATIENCE)

    start(layout, node.name, f"{node.name}-containerd", [*in_node(layout, node.name), "containerd"])
    until(lambda: _answers(layout, node), f"containerd of node {node.name} answers", patience=_PATIENCE)
    for archive in images:
        import_image(layout, node, archive)

    settings = directory / "kubelet.json"
    settings.write_text(json.dumps(_kubelet(node, serving)))
    start(
        layout,
        node.name,
        f"{node.name}-kubelet",
        [
            *(*in_node(layout, node.name), str(layout.programs / "kubelet"), f"--config={settings}"),
            *(f"--kubeconfig={directory / 'kubeconfig'}", f"--hostname-override={node.name}"),
            *(f"--node-ip={','.join(node.addresses)}", f"--node-labels=topology.kubernetes.io/zone={node.zone}"),
        ],
    )


def import_image(layout: Layout, node: Node, archive: Path) -> None:
    """Of an archive by Docker or OCI."""
    run([*in_node(layout, node.name), "ctr", "--namespace=k8s.io", "images", "import", str(archive)], seconds=300)


def _answers(layout: Layout, node: Node) -> bool:
    try:
        run([*in_node(layout, node.name), "ctr", "version"])
    except TestbedError:
        return False
    return True


def _kubelet(node: Node, serving: Pair) -> dict[str, object]:
    nothing = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(serving.certificate.parent / "authority.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "clusterDNS": [node.families[0].dns],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{NAME}/{node.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "evictionHard": dict.fromkeys(nothing, "0%"),  # the machine's disk and memory are not the node's
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},  # an agent that is killed comes back, as under systemd
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
    }
