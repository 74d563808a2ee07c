"""What is remembered of pods: whole, or not at all."""

from __future__ import annotations

import errno
import os
from ipaddress import ip_interface
from pathlib import Path

import pytest

from percale.cni.pod_netns import NamespaceId
from percale.cni.records import Attachment, Records
from percale.cni.requests import KubernetesPod
from percale.errors import StateError
from percale.ipam.address_pool import Owner
from percale.render.network.pod_veth import Limit, PodWires


def attachment(container: str = "c0ffee.1", *, full: bool = True) -> Attachment:
    owner = Owner(container, "eth0.5")
    wires = PodWires(
        *owner,
        mac="02:00:00:00:00:01",
        mtu=1450,
        addresses=(ip_interface("10.1.0.7/24"), ip_interface("fd00::7/64")),
        bridge="cni0" if full else None,
        ingress=Limit(8000, 8000) if full else None,
        egress=Limit(9000, 9000) if full else None,
    )
    pod = KubernetesPod("web", "front", "u1") if full else None
    namespace = NamespaceId(4, 4026532001) if full else None
    return Attachment(owner, "percale", "/run/netns/p", wires, pod, chained=full, namespace=namespace)


@pytest.mark.parametrize("full", [True, False])
def test_what_is_put_is_there_after_a_restart(tmp_path: Path, full: bool) -> None:
    wanted = attachment(full=full)
    Records(tmp_path).put(wanted)
    again = Records(tmp_path)
    assert again.attachments == {wanted.owner: wanted}
    assert again.damaged == {}


def test_what_is_removed_is_gone_after_a_restart_and_may_be_removed_twice(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put(attachment())
    records.remove(attachment().owner)
    records.remove(attachment().owner)
    assert records.attachments == Records(tmp_path).attachments == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"network": 1}', b"\xff", b'{"network":"","netns":"","mac":"","mtu":1}']
)
def test_a_damaged_record_is_reported_and_the_others_load(tmp_path: Path, content: bytes) -> None:
    good = attachment()
    records = Records(tmp_path)
    records.put(good)
    (tmp_path / "dead@eth0.json").write_bytes(content)
    again = Records(tmp_path)
    assert again.attachments == {good.owner: good}
    (owner,) = again.damaged
    assert owner == Owner("dead", "eth0")
    assert "dead@eth0.json: damaged" in str(again.damaged[owner])
    again.remove(owner)
    assert Records(tmp_path).damaged == {}


def test_a_record_with_an_address_that_is_none_is_damaged(tmp_path: Path) -> None:
    Records(tmp_path).put(attachment("dead"))
    path = tmp_path / "dead@eth0.5.json"
    path.write_text(path.read_text().replace("10.1.0.7", "10.1.0.777"))
    assert list(Records(tmp_path).damaged) == [Owner("dead", "eth0.5")]


def test_a_record_that_is_no_file_is_damaged(tmp_path: Path) -> None:
    good = attachment()
    Records(tmp_path).put(good)
    os.mkfifo(tmp_path / "dead@eth0.json")
    again = Records(tmp_path)
    assert (list(again.attachments), list(again.damaged)) == ([good.owner], [Owner("dead", "eth0")])


def test_a_file_that_names_no_interface_is_damaged(tmp_path: Path) -> None:
    Records(tmp_path).put(attachment("dead"))
    (tmp_path / "dead@eth0.5.json").rename(tmp_path / "dead.json")
    assert Records(tmp_path).attachments == {}
    assert list(Records(tmp_path).damaged) == [Owner("dead", "")]


def test_a_record_of_a_later_version_loads(tmp_path: Path) -> None:
    Records(tmp_path).put(attachment("later"))
    path = tmp_path / "later@eth0.5.json"
    path.write_text(path.read_text().replace("{", '{"something": "new",', 1))
    assert list(Records(tmp_path).attachments) == [Owner("later", "eth0.5")]


def test_a_half_written_record_is_removed(tmp_path: Path) -> None:
    (tmp_path / "dead@eth0.new").write_text('{"network"')
    assert Records(tmp_path).damaged == {}
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path)

    def full(path: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(StateError, match="No space left on device"):
        records.put(attachment())
    assert records.attachments == {}
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "pods").write_text("")
    with pytest.raises(StateError, match="cannot read the records of pods"):
        Records(tmp_path / "pods")
