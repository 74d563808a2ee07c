"""Brings a testbed up and takes it down.

```
 holder               mount, PID and network namespace: the switch; all else ends with this process
   ├─ control plane   network namespace: etcd, kube-apiserver, kube-controller-manager, kube-scheduler
   └─ n1 … nN         network, mount, UTS, IPC and PID namespace each: containerd, kubelet, pods
```

All processes are in cgroups below `percale-testbed`, all files in one directory, and the machine's own namespaces get
nothing: what is in those cgroups is killed, and the rest goes with it. Only one sysctl is of the whole machine: inotify
instances, put back by `down`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.testbed import cgroups, images, installation
from tests.cluster.testbed.control_plane import ControlPlane, kubectl
from tests.cluster.testbed.layout import CONTROL_PLANE, DIRECTORY, Layout
from tests.cluster.testbed.node import start_node
from tests.cluster.testbed.processes import HOLDER, TestbedError, in_holder, reap, run, say, start
from tests.waiting import until

_HERE = Path(__file__).parent
_PATIENCE = 120.0
PROGRAMS = ("busybox", "containerd", "containerd-shim-runc-v2", "ctr", "ip", "nsenter", "openssl", "runc", "unshare")
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_NEEDED = 4096
_HOLD = """set -e
read -r pid _ </proc/self/stat
mount -t tmpfs -o mode=755 holder /run
mkdir /run/netns
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
for gateway in $GATEWAYS; do ip address add "$gateway" dev br0; done
echo "$pid" >"$DIRECTORY/pid.new"
mv "$DIRECTORY/pid.new" "$DIRECTORY/pid"
exec "$INIT"
"""


@contextmanager
def testbed(layout: Layout) -> Iterator[Layout]:
    """Up, and down in any case, but for one that was up before."""
    _check(layout)
    try:
        _start(layout)
        yield layout
    finally:
        down(layout.root)


def up(layout: Layout) -> None:
    """Returns once all nodes are Ready and the cluster has DNS."""
    _check(layout)
    _start(layout)


def _start(layout: Layout) -> None:
    down(layout.root)  # the files of one that was killed
    archive = images.archive(layout.programs)
    layout.logs.mkdir(parents=True)
    layout.save()
    _raise_inotify(layout.root)
    say("the switch and the control plane")
    _hold(layout)
    _plug(layout, CONTROL_PLANE, [family.control_plane for family in layout.families])
    for node in layout.nodes:
        _plug(layout, node.name, node.addresses)
    control_plane = ControlPlane(layout)
    control_plane.start()
    say(f"{layout.node_count} nodes")
    serving = {node: control_plane.admit(node) for node in layout.nodes}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda node: start_node(layout, node, serving[node], [archive]), layout.nodes))
    say("Percale")
    installation.install(layout)
    for node in layout.nodes:
        wait = ("wait", "--for=condition=Ready", f"node/{node.name}", f"--timeout={_PATIENCE:.0f}s")
        kubectl(layout, *wait, seconds=_PATIENCE + 10)
    say("DNS")
    dns = (_HERE / "coredns.yaml").read_text().replace("CLUSTER_DNS", layout.families[0].dns)
    kubectl(layout, "apply", "-f", "-", stdin=dns)
    kubectl(layout, "rollout", "status", "-n=kube-system", "deployment/coredns", "--timeout=120s", seconds=130)


def down(directory: Path = DIRECTORY) -> None:
    """At any time, and again; an error names what is left."""
    left = [f"process {pid}" for pid in cgroups.kill_all()]
    if not left:
        reap()
    left += [str(path) for path in cgroups.remove()]
    before = directory / "inotify"
    if before.exists():
        _INOTIFY.write_text(before.read_text())
    if directory.exists():
        shutil.rmtree(directory)
    if left:
        raise TestbedError(f"cannot be removed: {', '.join(left)}")


def _check(layout: Layout) -> None:
    if os.geteuid() != 0:
        raise TestbedError("a testbed needs root")
    if not cgroups.hierarchies():
        raise TestbedError("a testbed needs cgroup v1 at /sys/fs/cgroup")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise TestbedError(f"no {', '.join(missing)} here; type: scripts/system-packages cluster")
    installation.check()
    if cgroups.processes():
        raise TestbedError("a testbed is up; take it down first")


def _raise_inotify(directory: Path) -> None:
    """Kubelets and containerds take more than a machine has by default."""
    before = _INOTIFY.read_text()
    if int(before) < _INOTIFY_NEEDED:
        (directory / "inotify").write_text(before)
        _INOTIFY.write_text(str(_INOTIFY_NEEDED))


def _hold(layout: Layout) -> None:
    directory = layout.root / HOLDER
    directory.mkdir()
    cgroups.create(HOLDER)
    cgroups.set_shares()
    gateways = " ".join(f"{each.gateway}/{each.underlay.prefixlen}" for each in layout.families)
    environment = {"DIRECTORY": str(directory), "GATEWAYS": gateways, "INIT": str(layout.programs / "init")}
    namespaces = ("--mount", "--propagation=private", "--net", "--pid", "--fork")
    start(layout, HOLDER, HOLDER, ["unshare", *namespaces, "bash", "-c", _HOLD], environment)
    until((directory / "pid").exists, "the switch is there", patience=_PATIENCE)


def _plug(layout: Layout, name: str, addresses: Sequence[str]) -> None:
    """A network namespace with eth0 at the switch."""
    lines = [
        f"ip netns add {name}",
        f"ip -n {name} link set lo up",
        f"ip link add to-{name[:10]} type veth peer name eth0 netns {name}",
        f"ip link set to-{name[:10]} master br0 up",
        f"ip -n {name} link set eth0 up",
    ]
    for family, address in zip(layout.families, addresses, strict=True):
        lines += [
            f"ip -n {name} address add {address}/{family.underlay.prefixlen} dev eth0 {'nodad' * (family.version == 6)}",
            f"ip -n {name} route add default via {family.gateway}",
        ]
    run([*in_holder(layout), "sh", "-ec", "\n".join(lines)])
