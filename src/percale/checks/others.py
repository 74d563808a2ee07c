"""Who else is here: other networks' configuration and agents, and programs on the agent's ports."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

from percale.agent.config.loader import environment_name, listen_addresses
from percale.checks.check import Outcome, bad, doubtful, good, unknown
from percale.checks.host import Host
from percale.cni.conflist import FILE

_SUFFIXES = (".conf", ".conflist", ".json")
"""Of the files that a container runtime reads."""
_KUBE_PROXY = "kube-proxy"
_NETWORKS: Mapping[str, str] = MappingProxyType(
    {
        "flanneld": "kubectl -n kube-flannel delete daemonset kube-flannel-ds",
        "calico-node": "kubectl -n kube-system delete daemonset calico-node",
        "cilium-agent": "kubectl -n kube-system delete daemonset cilium",
        "kube-router": "kubectl -n kube-system delete daemonset kube-router",
        "antrea-agent": "kubectl -n kube-system delete daemonset antrea-agent",
        "weaver": "kubectl -n kube-system delete daemonset weave-net",
        "kindnetd": "kubectl -n kube-system delete daemonset kindnet",
    }
)
"""Agents of other networks by their process, and how each is ended in its usual installation."""
_RUNTIMES = ("containerd", "crio")
PLUGINS = Path("/opt/cni/bin")
"""Where these look for plugins."""
_LOOPBACK = ("/var/lib/rancher/k3s/data/cni/loopback", "/usr/lib/cni/loopback", "/usr/libexec/cni/loopback")
"""k3s', Debian's, Fedora's."""
_XTABLES_LOCK = Path("/run/xtables.lock")
_CALL = 0.3
"""Seconds in which a call of iptables is done."""
_POLICIES = ("calico-node", "cilium-agent", "kube-router", "antrea-agent", "weaver", "kindnetd")


def cni_configuration(host: Host) -> Outcome | None:
    """The runtime takes the first file by name. Beside another network's policies it is the other's."""
    if host.backend_type is None:
        return None
    directory = Path(host.config.cni.confDir)
    try:
        names = sorted(each.name for each in directory.iterdir() if each.suffix in _SUFFIXES)
    except FileNotFoundError:
        return good(f"there is no {directory} yet")
    except OSError as error:
        return unknown(f"{directory}: {error.strerror}")
    earlier = [name for name in names if name < FILE]
    if earlier:
        commands = (f"mv {directory / name} {directory / name}.before-percale" for name in earlier)
        return bad(f"{', '.join(earlier)} in {directory} comes before {FILE}", *commands)
    return good(f"nothing in {directory} comes before {FILE}")


def loopback_plugin(host: Host) -> Outcome | None:
    """Runtimes start it for each pod, beside the network's own. Kubernetes' packages bring it, k3s keeps its own elsewhere."""
    running = [each.name for each in host.processes if each.name in _RUNTIMES]
    if not running or host.backend_type is None:
        return None
    plugin = Path(host.config.cni.binDir or PLUGINS) / "loopback"
    if plugin.exists():
        return good(f"{plugin} is there")
    there = [name for name in _LOOPBACK if Path(name).exists()]
    install = () if there else ("apt-get install containernetworking-plugins   # or your distribution's package",)
    link = f"mkdir -p {plugin.parent} && ln -s {there[0] if there else _LOOPBACK[1]} {plugin}"
    return doubtful(
        f"there is no {plugin}, which {running[0]} starts for each pod unless told otherwise", *install, link
    )


def networks(host: Host) -> Outcome:
    """Two agents of a network undo each other's work; two that enforce policies both drop."""
    concerned = _POLICIES if host.backend_type is None else tuple(_NETWORKS)
    running = [each for each in host.processes if each.name in concerned]
    if not running:
        return good("no agent of another network runs")
    words = ", ".join(f"{each.name} (pid {each.pid})" for each in running)
    commands = dict.fromkeys(_NETWORKS[each.name] for each in running)
    if host.backend_type is None:
        return doubtful(f"{words} may enforce policies too", *commands)
    return bad(f"{words} runs", *commands)


def kube_proxy(host: Host) -> Outcome | None:
    """Both would translate Services."""
    if not host.config.services.enabled or host.backend_type is None:
        return None
    running = [each for each in host.processes if each.name == _KUBE_PROXY]
    if running:
        return bad(
            f"kube-proxy runs (pid {running[0].pid}), and services.enabled is true",
            "kubectl -n kube-system delete daemonset kube-proxy   # or services.enabled: false",
        )
    return good("kube-proxy does not run")


def xtables_lock(host: Host) -> Outcome | None:
    """Taken by each call of iptables-legacy, which waits for it; nothing of ours does. A call takes milliseconds."""
    try:
        seen = _XTABLES_LOCK.stat()
        holder = _holder(host, seen)
        if holder is not None:
            time.sleep(_CALL)
    except OSError:
        return None  # nobody uses it
    if holder is None or _holder(host, seen) != holder:
        return good(f"nobody keeps {_XTABLES_LOCK}")
    return doubtful(
        f"pid {holder} keeps {_XTABLES_LOCK}",
        f"ps -fp {holder}   # a program that hangs?",
        f"kill {holder}",
    )


def _holder(host: Host, file: os.stat_result) -> int | None:
    """The process that has locked the file. Raises OSError."""
    name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in (host.proc / "locks").read_text().splitlines():
        words = line.split()
        if words[5:6] == [name]:
            return int(words[4])
    return None


def ports(host: Host) -> Outcome:
    """Of health checks and metrics."""
    if host.agent is not None:
        return good(f"the agent that runs has them (pid {host.agent})")
    taken = []
    for setting, (address, port) in listen_addresses(host.config).items():
        if (error := _bind_error(address, port)) is not None and error.errno == errno.EADDRINUSE:
            taken.append((setting, port))
    if taken:
        words = ", ".join(f"TCP {port} ({setting})" for setting, port in taken)
        commands = [f"ss -ltnp 'sport = :{port}'   # or {environment_name(setting)}=none" for setting, port in taken]
        return bad(f"another program has {words}", *commands)
    return good("the agent's ports are free")


def _bind_error(address: str, port: int) -> OSError | None:
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(kind, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error
    return None
