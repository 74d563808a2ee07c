"""`percale migrate --from flannel`: this node's subnet, devices and pods become Percale's; then flannel's rules go.

    flanneld stopped, no agent   conflist aside ─▶ subnet, MACs ─▶ pods: address, record, device ─▶ flannel's devices
    the agent is ready           flannel's rules, stale routes, portmap's rules, records of host-local

The kernel forwards all the while. What is taken over is what peers and pods know: the subnet, the MACs, the names of devices.
Nothing is changed before everything was looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from percale.agent.config.settings import AgentConfig
from percale.agent.migration import firewall
from percale.agent.migration.cni_cache import CachedPod, CniState
from percale.agent.migration.plan import Places, Plan, Step, agent_is_ready, flanneld_pid
from percale.agent.pid_file import single_agent
from percale.agent.state import ADDRESSES, PODS, NodeState
from percale.bounded_file import read_file
from percale.cni import conflist
from percale.cni.records import Records
from percale.counted import counted
from percale.errors import AgentError, BadConfig, KernelError, StateError
from percale.ipam.address_pool import AddressPool
from percale.kernel.netlink.link import Device
from percale.kernel.takeover import Devices
from percale.model.subnet_env import SubnetEnv, parse_subnet_env
from percale.model.subnet_lease import NodeSubnets

ASIDE = ".flannel"
"""Behind the name of flannel's conflist while Percale's is in force: runtimes read no such file."""
_OTHER_BACKENDS = {"flannel0": "udp", "flannel.ipip": "ipip", "flannel-wg": "wireguard", "flannel-wg-v6": "wireguard"}
"""Devices that say which backend flannel has, other than vxlan and host-gw: they are not taken over."""


def plan(config: AgentConfig, places: Places) -> Plan:
    """What is to be done on this node now. Raises PercaleError for what does not fit; nothing was changed."""
    if (pid := flanneld_pid()) is not None:
        raise AgentError(f"flanneld runs on this node (pid {pid})", hint="stop it first: its pods go on")
    ready = agent_is_ready(config)
    if ready:
        return _after_start(config, places)
    with single_agent(Path(config.runDir)):
        found = _Found(config, places)
        steps = tuple(found.steps())
    return Plan(steps, "start the agent, and once it is ready, run this again: it removes what flannel left")


def _after_start(config: AgentConfig, places: Places) -> Plan:
    return Plan(tuple(_removals(config, places)), "nothing")


class _Found:
    """What flannel left, checked."""

    def __init__(self, config: AgentConfig, places: Places) -> None:
        self._config = config
        env = subnet_env(config)
        self.subnets = NodeSubnets(*env.subnets.values())
        self._conflists = [path for path, _ in flannels_conflists(config) if not path.name.endswith(ASIDE)]
        self._devices = {device.name: device for device in Devices().all()}
        self._state = CniState(places.state, network_of(config))
        self._directory = Path(config.stateDir)
        node = NodeState(self._directory) if (self._directory / NodeState.FILE).exists() else None
        self._kept = (node.subnets, node.macs) if node is not None else (None, {})
        pods = self._directory / PODS
        self._known = Records(pods).attachments if pods.is_dir() else {}
        self._pods = [each for each in self._state.pods(config.cni.bridge, env.mtu) if self._is_here(each)]
        self._check()

    def _is_here(self, pod: CachedPod) -> bool:
        """Not one that is gone and whose record was left."""
        return pod.device in self._devices or pod.attachment.wires.device in self._devices

    def _check(self) -> None:
        for name, backend in _OTHER_BACKENDS.items():
            if name in self._devices:
                hint = "nodes with vxlan or host-gw are taken over with their pods; drain this one first"
                raise BadConfig(f"flannel's backend here is {backend}", hint=hint)
        cni = self._config.cni
        if self._pods and cni.wiring != "bridge":
            raise BadConfig(
                f"the bridge {cni.bridge} has {counted(len(self._pods), 'pod')}, and the agent's cni.wiring is {cni.wiring}",
                hint="set cni.wiring to bridge: routed pods would not reach them",
            )
        for each in self._pods:
            if outside := [ip for ip in each.attachment.wires.ips if not any(ip in net for net in self.subnets)]:
                raise StateError(f"{each.attachment} has {outside[0]}, outside of {self.subnets}", where=str(each.path))
        known = {name for each in self._pods for name in (each.device, each.attachment.wires.device)}
        known |= {each.wires.device for each in self._known.values()}
        bridge = self._devices.get(cni.bridge)
        for device in self._devices.values():
            if bridge is not None and device.master == bridge.index and device.name not in known:
                raise StateError(
                    f"{device.name} is on {cni.bridge}, and no CNI result in {self._state.results} names it",
                    hint="delete its pod, or take the device off the bridge",
                )

    def steps(self) -> Iterator[Step]:
        """In an order in which each may be the last one."""
        for path in self._conflists:
            aside = path.with_name(path.name + ASIDE)
            yield Step(f"move {path} to {aside.name}", partial(rename_file, path, aside))
        macs = {each.name: each.mac for each in self._own_devices() if each.mac is not None}
        if self._kept != (self.subnets, macs):
            what = ", ".join(f"{mac} of {name}" for name, mac in macs.items())
            text = f"keep the subnet {self.subnets}" + (f" and the MAC {what}" if what else "")
            yield Step(text, partial(self._keep, macs))
        for pod in self._pods:
            if self._known.get(pod.attachment.owner) != pod.attachment or pod.device in self._devices:
                yield Step(self._about(pod), partial(self._take_over, pod))
        for device in self._own_devices():
            if not device.ours:
                yield Step(f"take over {device.name}", partial(Devices().set_owner, device, ours=True))

    def _own_devices(self) -> Iterator[Device]:
        """flannel's tunnels and the bridge."""
        for name, device in sorted(self._devices.items()):
            if name == self._config.cni.bridge or name.startswith(("flannel.", "flannel-v6.")):
                yield device

    def _keep(self, macs: Mapping[str, str]) -> None:
        node = NodeState(self._directory)
        node.save_subnets(self.subnets)
        node.save_macs(macs)

    @staticmethod
    def _about(pod: CachedPod) -> str:
        addresses = " ".join(map(str, pod.attachment.wires.ips))
        return f"take over {pod.attachment} ({addresses}): {pod.device} becomes {pod.attachment.wires.device}"

    def _take_over(self, pod: CachedPod) -> None:
        attachment = pod.attachment
        pool = AddressPool(self._directory / ADDRESSES, self._config.node, self.subnets)
        try:
            who = str(attachment.pod) if attachment.pod is not None else None
            pool.allocate(attachment.owner, pod=who, wanted=attachment.wires.ips)
        finally:
            pool.close()
        Records(self._directory / PODS).put(attachment)
        if (device := self._devices.get(pod.device)) is not None:
            try:
                Devices().rename(device, attachment.wires.device)
                Devices().set_owner(device, ours=True)
            except OSError as error:
                raise KernelError.from_os(error, where=f"renaming {pod.device}", hint="run as root") from error


def _removals(config: AgentConfig, places: Places) -> Iterator[Step]:
    """What goes once Percale's rules are in force."""
    kept = firewall.forwarding_depends_on_them()
    for command in firewall.flannel_rules():
        if not (kept and firewall.is_of_forwarding(command)):
            yield Step(" ".join(command), partial(firewall.remove_rules, command))
    network = network_of(config)
    state = CniState(places.state, network)
    for pod in state.pods(config.cni.bridge, 0):
        if pod.attachment.ports:
            text = f"remove portmap's rules of {pod.attachment}"
            yield Step(text, partial(_delete_by_portmap, places.plugins, network, pod))
    files = [pod.path for pod in state.pods(config.cni.bridge, 0)]
    owners = state.addresses()
    files += [*owners, *(state.handed_over(owner.container) for owner in owners.values())]
    for path in dict.fromkeys(files):
        if path.exists():
            yield Step(f"remove {path}", partial(path.unlink, missing_ok=True))


def _delete_by_portmap(plugins: Path, network: str, pod: CachedPod) -> None:
    owner = pod.attachment.owner
    given = {"cniVersion": "0.3.1", "name": network, "type": "portmap", "runtimeConfig": dict(pod.capabilities)}
    environment = {
        **os.environ,
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": owner.container,
        "CNI_IFNAME": owner.ifname,
        "CNI_NETNS": pod.attachment.netns,
        "CNI_PATH": str(plugins),
    }
    program = plugins / "portmap"
    try:
        done = subprocess.run(
            [program], input=json.dumps(given), env=environment, capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StateError(
            f"cannot be run: {error}", where=str(program), hint="name its directory with --cni-bin-dir"
        ) from error
    if done.returncode != 0:
        raise StateError(f"DEL of {pod.attachment}: {done.stdout.strip()}", where=str(program))


def flannels_conflists(config: AgentConfig) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Those that runtimes see, and those that were moved aside. Raises BadNetworkConfig, BadConfig, StateError."""
    directory = Path(config.cni.confDir)
    for path in sorted(directory.glob("*")) if directory.is_dir() else ():
        name = path.name.removesuffix(ASIDE)
        if name.endswith((".conf", ".conflist", ".json")) and (document := _flannels(path)) is not None:
            yield path, document


def network_of(config: AgentConfig) -> str:
    """flannel's CNI network; the name is that of its manifests where there is no conflist."""
    return next((str(document["name"]) for _, document in flannels_conflists(config)), "cbr0")


def _flannels(path: Path) -> dict[str, Any] | None:
    """The conflist, if it is flannel's. Raises BadNetworkConfig for one that Percale cannot take over."""
    try:
        text = read_file(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot be read: {error}", where=str(path)) from error
    if '"flannel"' not in text:
        return None  # somebody else's, perhaps not even JSON
    document = conflist.checked(text, str(path))
    types = [plugin.get("type") for plugin in document["plugins"]]
    if "flannel" not in types:
        return None
    if conflist.wiring_of(text, str(path)) != "bridge":
        raise BadConfig("flannel delegates to ptp here", where=str(path), hint="delete and recreate the node's pods")
    if others := [each for each in types if each not in ("flannel", "portmap")]:
        raise BadConfig(
            f"its chain has {others[0]}, which Percale does not take over",
            where=str(path),
            hint="drain the node instead",
        )
    return document


def subnet_env(config: AgentConfig) -> SubnetEnv:
    """What flannel, or an agent since then, wrote. Raises StateError, BadConfig."""
    path = Path(config.subnetFile or "/run/flannel/subnet.env")
    try:
        return parse_subnet_env(read_file(path).decode(), str(path))
    except FileNotFoundError as error:
        hint = "flannel has not run on this node since it started; set subnetFile if it is elsewhere"
        raise StateError("no such file", where=str(path), hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot be read: {error}", where=str(path)) from error


def rename_file(old: Path, new: Path) -> None:
    """Raises StateError."""
    try:
        old.rename(new)
    except OSError as error:
        raise StateError(f"cannot be renamed: {error.strerror}", where=str(old), hint="run as root") from error
