"""The thread that listens to the kernel: a defect of ours must not make it deaf."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from tests.waiting import eventually, until

from percale.kernel.netlink import link
from percale.kernel.netns import NetnsThread
from percale.kernel.protocol import KernelEvent, ResyncRequired, UnderlayChanged
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.reconciler.sysctl_schedule import EVERY
from percale.kernel.rtnl.driver import KernelDriver
from percale.render.objects import Sysctl


class Defect(Exception):
    """Of ours."""


def break_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next device that the kernel tells of finds a defect."""
    decode = link.decode

    def broken(body: bytes) -> Any:
        monkeypatch.setattr(link, "decode", decode)
        raise Defect

    monkeypatch.setattr(link, "decode", broken)


def test_it_reports_a_defect_and_listens_again(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[KernelEvent] = []

    def collect(events: Iterable[KernelEvent]) -> None:
        told.extend(events)

    driver = space.driver()
    driver.follow(collect)
    space.run("ip", "link", "add", "first0", "type", "bridge")
    until(lambda: told)
    told.clear()
    break_once(monkeypatch)
    space.run("ip", "link", "add", "second0", "type", "bridge")
    until(lambda: len(told) == 2)
    lost, changed = told
    assert isinstance(lost, ResyncRequired)
    assert isinstance(lost.error, Defect)
    assert changed == UnderlayChanged()
    told.clear()
    space.run("ip", "address", "add", "192.0.2.1/24", "dev", "second0")
    until(lambda: UnderlayChanged() in told)
    assert not [event for event in told if isinstance(event, ResyncRequired)]


async def test_the_reconciler_reports_it_and_reads_again(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    reconciler = Reconciler(KernelDriver(NetnsThread(space.descriptor)))
    await reconciler.start()
    try:
        break_once(monkeypatch)
        space.run("ip", "link", "add", "eth0", "type", "bridge")
        await eventually(lambda: reports and "eth0" in {interface.name for interface in reconciler.underlay.interfaces})
    finally:
        await reconciler.stop()
    (report,) = reports
    assert report["message"] == "listening to the kernel failed"
    assert isinstance(report["exception"], Defect)


SETTINGS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
    "net/ipv6/conf/pclone/accept_ra": "0",
    "net/ipv6/conf/pcltwo/disable_ipv6": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
    "net/bridge/bridge-nf-call-ip6tables": "1",
}
"""Of each sort that we set: told by the kernel or not, of the node or of a device."""


async def test_a_setting_that_somebody_resets_is_back(space: Any) -> None:
    space.shell("ip link add pclone type veth peer name pcltwo; ip link add br0 type bridge")
    space.run("nft", "table inet made { chain c { type filter hook input priority 0; ct state new accept; }; }")
    reconciler = Reconciler(KernelDriver(NetnsThread(space.descriptor)))
    await reconciler.start()
    try:
        reconciler.declare("node", [Sysctl(name, value) for name, value in SETTINGS.items()])
        await reconciler.wait_applied("node")
        for name, value in SETTINGS.items():
            space.shell(f"echo {1 - int(value)} > /proc/sys/{name}")
        await eventually(
            lambda: all(space.run("cat", f"/proc/sys/{name}").strip() == value for name, value in SETTINGS.items())
        )
        reconciler.declare("node", ())
        await reconciler.wait_idle()
        space.shell("echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
        await asyncio.sleep(EVERY * 1.5)
        assert space.run("cat", "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal").strip() == "0"
    finally:
        await reconciler.stop()
