"""Which settings are looked at when."""

from __future__ import annotations

from percale.kernel.reconciler.sysctl_schedule import ROTATION, SysctlSchedule
from percale.render.objects import Sysctl

NODES = [Sysctl("net/ipv4/ip_forward", "1"), Sysctl("net/ipv6/conf/all/forwarding", "1")]
DEVICES = [Sysctl(f"net/ipv6/conf/pcl{number}/disable_ipv6", "1") for number in range(2 * ROTATION + 1)]


def test_the_nodes_each_time_and_all_devices_by_turns() -> None:
    turns = SysctlSchedule()
    looks = [turns.next(NODES + DEVICES) for _ in range(ROTATION)]
    assert all(look[:2] == NODES for look in looks)
    assert all(len(look) <= 2 + 3 for look in looks)
    assert sorted(each.name for look in looks for each in look[2:]) == sorted(each.name for each in DEVICES)
