"""Where Kubernetes' programs come from, and how they are started."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from percale.errors import LabError
from percale.lab.kubernetes.command_lines import command_lines
from percale.lab.kubernetes.credentials import Credentials
from percale.lab.kubernetes.programs import NAMES, find_programs
from percale.model.netconf import network_config


def make_programs(directory: Path, *names: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """With openssl alone on the PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/openssl").symlink_to(shutil.which("openssl") or "")
    return {"PERCALE_CACHE": str(tmp_path / "cache"), "PATH": str(tmp_path / "bin")}


def test_the_newest_build_comes_before_the_path(environ: dict[str, str], tmp_path: Path) -> None:
    for build in ("kubernetes-1.9.9", "kubernetes-1.36.3"):
        make_programs(tmp_path / "cache" / build, *NAMES)
    make_programs(tmp_path / "bin", *NAMES)
    assert find_programs(environ) == {name: tmp_path / "cache/kubernetes-1.36.3" / name for name in NAMES}


def test_without_a_build_they_are_on_the_path(environ: dict[str, str], tmp_path: Path) -> None:
    make_programs(tmp_path / "bin", *NAMES)
    assert find_programs(environ) == {name: tmp_path / "bin" / name for name in NAMES}


def test_what_is_missing_is_named_and_what_to_type(environ: dict[str, str], tmp_path: Path) -> None:
    make_programs(tmp_path / "bin", "etcd", "kube-scheduler")
    with pytest.raises(LabError) as caught:
        find_programs(environ)
    told = str(caught.value)
    assert told.startswith("Kubernetes' programs are missing: kube-apiserver, kube-controller-manager (neither in ")
    assert f"{tmp_path / 'cache'} nor on the PATH); type: make kubernetes, in a checkout" in told
    (tmp_path / "bin/openssl").unlink()
    with pytest.raises(LabError, match="openssl is not installed; type: sudo apt-get install -y openssl"):
        find_programs(environ)


@pytest.mark.parametrize(
    ("network", "cidrs", "flags"),
    [
        ({"Network": "10.20.0.0/16", "SubnetLen": 26}, "10.20.0.0/16", ["--node-cidr-mask-size=26"]),
        (
            {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00::/56"},
            "10.244.0.0/16,fd00::/56",
            ["--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64"],
        ),
    ],
)
def test_subnets_are_as_the_network_configuration_says(
    network: dict[str, object], cidrs: str, flags: list[str], tmp_path: Path
) -> None:
    configuration = network_config({**network, "Backend": {"Type": "vxlan"}})
    programs = {name: Path("/opt") / name for name in NAMES}
    services = configuration.networks[:0]
    lines = command_lines(programs, Credentials(tmp_path), configuration.networks[0][1], configuration, services)
    assert [line[0] for line in lines] == [f"/opt/{name}" for name in NAMES]
    manager = lines[NAMES.index("kube-controller-manager")]
    assert [word for word in manager if "mask-size" in word] == flags
    assert f"--cluster-cidr={cidrs}" in manager
