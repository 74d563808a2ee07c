"""What the agent keeps in the kernel on its own node: tables, and pods' devices. Against what it says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from percale.agent.status import Pod
from percale.checks.check import Outcome, bad, doubtful, good, unknown
from percale.checks.commands import kubectl, restart
from percale.checks.host import Host
from percale.checks.others import PLUGINS
from percale.cni.install import NAME
from percale.cni.results import LATEST
from percale.counted import counted
from percale.errors import PercaleError
from percale.kernel.cleanup import own_tables
from percale.kernel.netns import CurrentNetns
from percale.model.pod import Pod as StoredPod
from percale.render.network.base_chains import network_tables
from percale.render.network.pod_veth import host_device
from percale.render.nft.objects import POLICY_TABLE
from percale.render.service.base_chains import TABLE as SERVICE_TABLE

_SHOWN = 5


def tables(host: Host) -> Outcome:
    """Flushed by others: the agent restores them at once, if it runs."""
    wanted = [POLICY_TABLE]
    if host.backend_type is not None:
        wanted += [each.name for each in network_tables()]
        wanted += [SERVICE_TABLE] if host.config.services.enabled else []
    try:
        there = own_tables(CurrentNetns())
    except OSError as error:
        return unknown(f"tables cannot be read: {error.strerror}")
    missing = [str(each) for each in wanted if str(each) not in there]
    if missing:
        return bad(f"there is no table {', '.join(missing)}", restart(host))
    return good(f"tables {', '.join(map(str, wanted))} are there")


def pod_devices(host: Host) -> Outcome | None:
    """Of pods that are older than a change of the MTU, or whose device somebody has deleted."""
    if host.status is None or host.backend_type is None or not host.status.pods:
        return None
    mtus = {link.name: link.mtu for link in host.links}
    leaked = _leaked(host)
    pods = [(each, _device(each)) for each in host.status.pods if each not in leaked]
    gone = [each for each in _without_device(host) if each not in leaked]
    if gone:
        names = ", ".join(each.pod or each.container[:13] for each in gone[:_SHOWN])
        return bad(f"no device leads to {names}", *(_delete(host, each.pod) for each in gone[:_SHOWN] if each.pod))
    others = [each for each, device in pods if mtus.get(device, host.status.mtu) != host.status.mtu]
    if others:
        names = ", ".join(each.pod or each.container[:13] for each in others[:_SHOWN])
        return doubtful(
            f"the MTU of {names} is not the node's, {host.status.mtu}",
            *(_delete(host, each.pod) for each in others[:_SHOWN] if each.pod),
        )
    return good(f"{counted(len(pods), 'pod')} with a device and its MTU, {host.status.mtu}")


def leaked_addresses(host: Host) -> Outcome | None:
    """Of pods that are gone, as a runtime that loses its state never says: their addresses are kept until it does."""
    if host.status is None or host.backend_type is None:
        return None
    leaked = _leaked(host)
    if not leaked:
        return good(f"{counted(len(host.status.pods), 'attachment')}, and none of a pod that is gone")
    names = ", ".join(f"{', '.join(each.addresses)} of {each.pod or each.container[:13]}" for each in leaked[:_SHOWN])
    more = f" (and {len(leaked) - _SHOWN} more)" if leaked[_SHOWN:] else ""
    return doubtful(f"{names}{more}: the pod is gone", *(_release(host, each) for each in leaked[:_SHOWN]))


def _leaked(host: Host) -> Sequence[Pod]:
    """Those that neither the kernel nor the cluster has."""
    gone = _without_device(host)
    if not gone:
        return ()
    try:
        known = {str(each.key) for each in host.store.list(StoredPod)}
    except PercaleError:
        return ()  # told by the check of the store
    return [each for each in gone if each.pod not in known]


def _without_device(host: Host) -> Sequence[Pod]:
    """Looked at twice: the device of a pod that is being deleted goes before its address."""
    found = _without_device_now(host)
    return _without_device_now(replace(host)) if found else ()


def _without_device_now(host: Host) -> Sequence[Pod]:
    devices = {link.name for link in host.links}
    return [each for each in host.status.pods if _device(each) not in devices] if host.status is not None else ()


def _device(pod: Pod) -> str:
    return host_device(pod.container, pod.ifname)


def _release(host: Host, pod: Pod) -> str:
    """The DEL that its runtime owes."""
    directory = Path(host.config.cni.binDir or PLUGINS)
    variables = f"CNI_COMMAND=DEL CNI_CONTAINERID={pod.container} CNI_IFNAME={pod.ifname} CNI_PATH={directory}"
    configuration = json.dumps({"cniVersion": LATEST, "name": "percale", "type": NAME}).replace('"', '\\"')
    return f"sh -c 'echo \"{configuration}\" | {variables} {directory / NAME}'"


def _delete(host: Host, pod: str) -> str:
    namespace, _, name = pod.partition("/")
    return kubectl(host, f"delete pod {name} -n {namespace}") + "   # its workload makes another one"
