"""Whatever happens between an ADD and its answer, no address, device or pod is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.kernel.cni.agent import SUBNETS
from tests.kernel.cni.conftest import Node, Pod, Refused
from tests.kernel.conftest import Space
from tests.waiting import until

from percale.cni.records import Records
from percale.ipam.address_pool import AddressPool, Owner

NewPod = Callable[[str], Pod]
ADD_STEPS = ("address", "pair", "inside", "draft", "record", "answer")
DEL_STEPS = ("withdraw", "unrecord", "release")


def addresses_in_use(node: Node) -> set[Owner]:
    pool = AddressPool(node.directory / "addresses", "n1", SUBNETS)
    try:
        return set(pool.allocations)
    finally:
        pool.close()


def nothing_is_left(node: Node) -> None:
    """Of any pod."""
    until(lambda: node.devices() == [])
    node.stop()
    assert addresses_in_use(node) == set()
    assert Records(node.directory / "pods").attachments == {}


def killed_in(node: Node, pod: Pod, verb: str, step: str) -> None:
    node.start(die=step)
    with pytest.raises(OSError, match=r"went away|reset"):
        pod.cni(verb)
    node.wait()


@pytest.mark.parametrize("step", ADD_STEPS)
def test_an_add_cut_short_can_be_added_again(node: Node, new_pod: NewPod, wiring: str, step: str) -> None:
    pod = new_pod("p")
    killed_in(node, pod, "ADD", step)
    node.start()
    pod.add()
    assert pod.is_wired()
    assert len(node.devices()) == 1
    pod.cni("DEL")
    nothing_is_left(node)


@pytest.mark.parametrize("step", ADD_STEPS)
def test_an_add_cut_short_leaves_nothing_after_its_del(node: Node, new_pod: NewPod, step: str) -> None:
    killed_in(node, pod := new_pod("p"), "ADD", step)
    node.start()
    pod.cni("DEL", namespace=False)
    nothing_is_left(node)
    assert pod.space.run("ip", "-br", "link").split()[0] == "lo"


@pytest.mark.parametrize("step", ADD_STEPS)
def test_an_add_cut_short_leaves_nothing_after_gc(node: Node, new_pod: NewPod, step: str) -> None:
    killed_in(node, new_pod("p"), "ADD", step)
    node.start()
    node.ask("GC", {}, None, **{"cni.dev/valid-attachments": []})
    nothing_is_left(node)


@pytest.mark.parametrize("step", DEL_STEPS)
def test_a_del_cut_short_is_finished_by_the_next(node: Node, new_pod: NewPod, step: str) -> None:
    pod = new_pod("p")
    node.start()
    pod.add()
    node.stop()
    killed_in(node, pod, "DEL", step)
    node.start()
    pod.cni("DEL")
    nothing_is_left(node)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_forgets_no_pod_and_leaves_its_device_alone(
    node: Node, new_pod: NewPod, wiring: str, how: signal.Signals
) -> None:
    node.start()
    limits = {"ingressRate": 1_000_000, "ingressBurst": (1 << 32) - 1, "egressRate": 10**9, "egressBurst": 10**9}
    pod = new_pod("p").add(runtimeConfig={"bandwidth": limits})
    assert pod.is_wired()

    def sent() -> list[int]:
        """Bytes, by qdisc."""
        lines = node.space.run("tc", "-s", "qdisc", "show").splitlines()
        return [int(line.split()[1]) for line in lines if "Sent" in line]

    links, counted = node.space.run("ip", "link"), sent()
    node.stop(how)
    node.start()
    assert node.space.run("ip", "link") == links
    # A shaper that is made again counts from zero, and loses what waits in it.
    assert all(now >= before for now, before in zip(sent(), counted, strict=True))
    assert any(counted)
    assert pod.is_wired()
    assert pod.cni("CHECK", prevResult=pod.result) is None
    assert new_pod("q").add().addresses != pod.addresses


def test_an_add_again_wires_the_pod_anew(node: Node, new_pod: NewPod, wiring: str) -> None:
    """A runtime whose ADD timed out may send it again; the container has its address already."""
    node.start()
    pod = new_pod("p").add()
    first = pod.addresses
    assert pod.add().addresses == first
    assert pod.is_wired()
    assert len(node.devices()) == 1


def test_an_add_again_in_another_namespace_moves_the_pod(node: Node, new_pod: NewPod) -> None:
    node.start()
    new_pod("p").add()
    moved = new_pod("p").add()
    assert moved.is_wired()
    assert len(node.devices()) == 1


def test_a_damaged_record_is_reported_and_its_pod_keeps_its_devices(node: Node, new_pod: NewPod, wiring: str) -> None:
    node.start()
    good, bad = new_pod("good").add(), new_pod("bad").add()
    node.stop()
    (node.directory / "pods" / "container-bad@eth0.json").write_text("{")
    node.start()
    assert "container-bad@eth0.json: damaged" in node.log
    assert good.is_wired()
    assert bad.is_wired()
    assert new_pod("next").add().addresses not in (good.addresses, bad.addresses)
    bad.cni("DEL")
    until(lambda: len(node.devices()) == 2)
    node.stop()
    assert Owner("container-bad", "eth0") not in addresses_in_use(node)


def test_a_device_deleted_while_the_agent_was_down_is_back(node: Node, new_pod: NewPod, wiring: str) -> None:
    node.start()
    pod = new_pod("p").add()
    node.stop()
    node.space.run("ip", "link", "delete", node.devices()[0])
    node.start()
    until(pod.is_wired)


def test_a_device_that_somebody_deletes_is_back_every_time(node: Node, new_pod: NewPod, wiring: str) -> None:
    node.start()
    pod = new_pod("p").add(runtimeConfig={"mac": "02:aa:bb:cc:dd:ee"})
    for _ in range(3):
        node.space.run("ip", "link", "delete", node.devices()[0])
        until(lambda: pod.space.run("ip", "link", "show", "eth0", check=False))
        until(pod.is_wired)
        assert "02:aa:bb:cc:dd:ee" in pod.space.run("ip", "link", "show", "eth0")
    descriptors = [path.readlink() for path in Path(f"/proc/{node.pid}/fd").iterdir()]
    assert sum("net:[" in str(target) for target in descriptors) <= 1


@pytest.mark.parametrize("whose", ["the node's", "another pod's"])
def test_a_path_that_leads_to_another_namespace_by_now_wires_nothing(
    node: Node, new_pod: NewPod, tmp_path: Path, whose: str
) -> None:
    """As /proc/PID/ns/net does once the process is gone and its id another's."""
    node.start()
    pod, other = new_pod("p"), new_pod("other")
    path = tmp_path / "netns"
    path.symlink_to(pod.space.path)
    variables = {"CNI_CONTAINERID": "c0ffee", "CNI_IFNAME": "eth0", "CNI_NETNS": str(path)}
    node.ask("ADD", variables, pod.space.descriptor)
    node.stop()
    node.space.run("ip", "link", "delete", node.devices()[0])
    path.unlink()
    found = node.space if whose == "the node's" else other.space
    path.symlink_to(found.path)
    before = found.run("ip", "-br", "link")
    node.start()
    until(lambda: "is another namespace than at the pod's ADD" in node.log)
    assert found.run("ip", "-br", "link") == before
    assert node.devices() == []


def test_a_pod_whose_namespace_is_gone_costs_nothing_and_goes_with_its_del(
    node: Node, new_pod: NewPod, tmp_path: Path
) -> None:
    """As after a reboot: the records are there, no pod is."""
    node.start()
    space = Space(tmp_path / "short-lived")
    try:
        pod = Pod(node, space, "p").add()
    finally:
        node.stop()
        space.close()
    until(lambda: node.devices() == [])
    node.start()
    assert "a pod's namespace is gone; its address is kept until its DEL" in node.log
    assert new_pod("q").add().addresses != pod.addresses
    node.ask("DEL", {"CNI_CONTAINERID": "container-p", "CNI_IFNAME": "eth0", "CNI_NETNS": str(space.path)})
    node.stop()
    assert addresses_in_use(node) == {Owner("container-q", "eth0")}


def test_a_state_that_cannot_be_written_is_one_error_and_wires_nothing(node: Node, new_pod: NewPod) -> None:
    node.start()
    kept = new_pod("kept").add()
    pods = node.directory / "pods"
    pods.rename(node.directory / "away")  # root writes to what is read-only, but to nothing that is not there
    pod = new_pod("p")
    with pytest.raises(Refused, match="cannot write the records of pods: No such file or directory") as caught:
        pod.add()
    assert caught.value.code == 5
    until(lambda: len(node.devices()) == 1)
    assert pod.space.run("ip", "-br", "link").split()[0] == "lo"
    (node.directory / "away").rename(pods)
    assert pod.add().is_wired()
    assert kept.is_wired()
    pod.cni("DEL")
    node.stop()
    assert addresses_in_use(node) == {Owner("container-kept", "eth0")}


def test_a_pod_that_has_an_eth0_already_is_refused_and_leaves_nothing(node: Node, new_pod: NewPod) -> None:
    node.start()
    pod = new_pod("p")
    pod.space.run("ip", "link", "add", "eth0", "type", "bridge")
    with pytest.raises(Refused, match="exists; the other namespace has a device eth0 of another owner") as caught:
        pod.add()
    assert caught.value.code == 101
    until(lambda: node.devices() == [])
    pod.space.run("ip", "link", "delete", "eth0")
    assert pod.add().is_wired()


def test_namespaces_that_are_none(node: Node, new_pod: NewPod, tmp_path: Path) -> None:
    node.start()
    pod = new_pod("p")
    own = node.space.descriptor
    file = os.open(tmp_path, os.O_RDONLY)
    variables = {"CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x"}
    for descriptor, words in ((own, "not a network namespace of a pod"), (file, "not a network"), (None, "be opened")):
        with pytest.raises(Refused, match=words) as caught:
            node.ask("ADD", variables, descriptor)
        assert caught.value.code == 4
    os.close(file)
    assert pod.add().is_wired()


def test_no_namespace_is_held_once_its_pod_is_gone(node: Node, new_pod: NewPod) -> None:
    node.start()
    pods = [new_pod(f"p{number}").add() for number in range(3)]
    with suppress(Refused):
        pods[0].add(runtimeConfig={"ips": ["10.9.9.9"]})
    inode = os.fstat(pods[0].space.descriptor).st_ino
    for pod in pods:
        pod.cni("DEL")
    held = [path.readlink() for path in Path(f"/proc/{node.pid}/task").glob("*/ns/net")]
    held += [path.readlink() for path in Path(f"/proc/{node.pid}/fd").iterdir()]
    assert f"net:[{inode}]" not in map(str, held)
