"""Kernel settings, in a kernel that lacks some."""

from __future__ import annotations

from pathlib import Path

import pytest

from percale.kernel import sysctl


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel has."""
    monkeypatch.setattr(sysctl, "_ROOT", tmp_path)
    for device in ("all", "eth0", "flannel.1", "pcl0"):
        (tmp_path / "net/ipv4/conf" / device).mkdir(parents=True)
    (tmp_path / "net/ipv4/ip_forward").write_text("0\n")
    return tmp_path


def test_a_kernel_without_ipv6_is_as_good_as_one_with_ipv6_off(settings: Path) -> None:
    sysctl.write("net/ipv6/conf/flannel.1/accept_ra", "0")
    sysctl.write("net/ipv6/conf/pcl0/disable_ipv6", "1")
    sysctl.write("net/ipv4/ip_forward", "1")
    assert (settings / "net/ipv4/ip_forward").read_text() == "1"


@pytest.mark.parametrize(("name", "value"), [("all/forwarding", "1"), ("eth0/accept_ra", "2")])
def test_what_needs_ipv6_is_refused_without_it(settings: Path, name: str, value: str) -> None:
    with pytest.raises(FileNotFoundError):
        sysctl.write(f"net/ipv6/conf/{name}", value)


def test_a_device_that_is_too_small_for_ipv6_is_as_good_as_one_with_ipv6_off(settings: Path) -> None:
    (settings / "net/ipv6/conf").mkdir(parents=True)
    sysctl.write("net/ipv6/conf/flannel.1/accept_ra", "0")
    sysctl.write("net/ipv6/conf/pcl0/disable_ipv6", "1")


def test_a_device_that_is_not_there_is_an_error(settings: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sysctl.write("net/ipv6/conf/flannel.2/accept_ra", "0")
