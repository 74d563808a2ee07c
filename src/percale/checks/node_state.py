"""What the agent keeps in the kernel on its own node: tables, and pods' devices. Against what it says of them."""

from __future__ import annotations

from percale.checks.check import Outcome, bad, doubtful, good, unknown
from percale.checks.commands import kubectl, restart
from percale.checks.host import Host
from percale.counted import counted
from percale.kernel.cleanup import own_tables
from percale.kernel.netns import CurrentNetns
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
    pods = [(each, host_device(each.container, each.ifname)) for each in host.status.pods]
    gone = [each for each, device in pods if device not in mtus]
    if gone:
        names = ", ".join(each.pod or each.container[:13] for each in gone[:_SHOWN])
        return bad(f"no device leads to {names}", *(_delete(host, each.pod) for each in gone[:_SHOWN] if each.pod))
    others = [each for each, device in pods if mtus[device] != host.status.mtu]
    if others:
        names = ", ".join(each.pod or each.container[:13] for each in others[:_SHOWN])
        return doubtful(
            f"the MTU of {names} is not the node's, {host.status.mtu}",
            *(_delete(host, each.pod) for each in others[:_SHOWN] if each.pod),
        )
    return good(f"{counted(len(pods), 'pod')} with a device and its MTU, {host.status.mtu}")


def _delete(host: Host, pod: str) -> str:
    namespace, _, name = pod.partition("/")
    return kubectl(host, f"delete pod {name} -n {namespace}") + "   # its workload makes another one"
