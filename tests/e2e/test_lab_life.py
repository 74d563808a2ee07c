"""A lab's life: up, down, several of them, and ends of all sorts that leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.e2e.conftest import PERCALE, ROOT, Person, processes_of
from tests.waiting import until

HOST_GW = "examples/net-conf-host-gw.json"


def machine_state() -> tuple[object, ...]:
    """What a lab could leave on the machine that it runs on."""
    mounts = Path("/proc/self/mountinfo").read_text().count("\n")
    devices = sorted(path.name for path in Path("/sys/class/net").iterdir())
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    return mounts, devices, tables, sorted(Path("/run/netns").iterdir())


def pid_of(person: Person, name: str = "lab") -> int:
    return int((person.runtime / "percale/labs" / name / "pid").read_text())


def test_up_shows_nodes_and_pods_and_what_to_type_next(percale: Person) -> None:
    before = machine_state()
    shown = percale.out("lab", "up", "-f", "examples/nginx.yaml", "-f", "examples/busybox.yaml")
    assert shown.startswith("lab lab: pods in 10.244.0.0/16, nodes joined by vxlan\n")
    assert re.search(r"^node3 +b +192\.168\.2\.2 +\d\.\d\d s +10\.244\.\d+\.0/24$", shown, re.MULTILINE)
    assert re.search(r"^outside +world +203\.0\.113\.2 +outside the cluster$", shown, re.MULTILINE)
    assert len(re.findall(r"^gomo-test/nginx-\w{10}-\w{5} +node\d +\d\.\d\d s +10\.244\.", shown, re.MULTILINE)) == 2
    assert "3 nodes and 4 pods are ready after" in shown
    for command in re.findall(r"^  percale (.*)$", shown, re.MULTILINE):
        if command != "lab down":
            percale(*command.split())
    assert percale.out("lab", "down") == "ended: lab\n"
    assert machine_state() == before
    assert list((percale.runtime / "percale/labs").iterdir()) == []
    until(lambda: not processes_of(percale.runtime))


def test_a_lab_without_pods_names_what_to_apply_next_and_what_to_ask_then(percale: Person) -> None:
    shown = percale.out("lab", "up", "--name", "two")
    without = percale.complaint("lab", "kubeconfig", "--lab", "two")
    assert without == "percale: lab two has no Kubernetes; end it, then: percale lab up --lab two --kubernetes"
    assert "3 nodes and 0 pods are ready after" in shown
    commands = re.findall(r"^  percale (.*)$", shown, re.MULTILINE)
    assert commands[0] == "lab apply --lab two -f examples/services/by-name.yaml"
    assert [percale.out(*command.split()) for command in commands][2].startswith("allowed: by-name/client → nginx, ")


def test_the_commands_of_the_documentation(percale: Person) -> None:
    text = (ROOT / "docs/lab.md").read_text()
    commands = re.findall(r"^\$ percale (.*)$", text, re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        percale(*command.split())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_owners_end_by_a_signal_ends_everything(percale: Person, number: signal.Signals) -> None:
    before = machine_state()
    percale("lab", "up", "-f", "examples/nginx.yaml")
    assert len(processes_of(percale.runtime)) > 4
    os.kill(pid_of(percale), number)
    until(lambda: not processes_of(percale.runtime))
    assert machine_state() == before
    gone = "percale: no lab named lab is running; start it: percale lab up"
    until(lambda: percale.complaint("lab", "get", "pods") == gone)  # its lock ends a little after its memory
    percale("lab", "up")  # what the dead lab left is in nobody's way


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, ("Killed",)), (signal.SIGSEGV, ("Segmentation fault", "controller.py"))]
)
def test_a_controller_that_dies_ends_the_lab_and_the_log_says_how(
    percale: Person, number: signal.Signals, said: Sequence[str]
) -> None:
    percale("lab", "up")
    (controller,) = [
        child for child in children(pid_of(percale)) if "node" not in str(Path(f"/proc/{child}/fd/1").readlink())
    ]
    os.kill(controller, number)
    until(lambda: not processes_of(percale.runtime))
    log = (percale.runtime / "percale/labs/lab/log").read_text()
    assert f"the lab ends: {said[0]} in its controller\n" in log
    assert all(word in log for word in said)


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_up_interrupted_takes_the_lab_away(percale: Person, tmp_path: Path) -> None:
    manifest = tmp_path / "never-ready.yaml"
    manifest.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n")
    process = subprocess.Popen(
        [PERCALE, "lab", "up", "-f", manifest],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=percale.environment,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        text = process.stdout.read()
    if process.returncode == 130:  # else it was faster than we
        assert "interrupted: lab lab ended" in text
        assert not processes_of(percale.runtime)
    else:
        assert process.returncode == 0


def test_two_labs_side_by_side(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/nginx.yaml")
    percale("lab", "up", "--name", "two", "-f", "examples/lab/one-segment.yaml", "-f", HOST_GW)
    listed = percale.out("lab", "list")
    assert re.search(r"^lab +\d+ +3 +3 +3 +10\.244\.0\.0/16 +vxlan$", listed, re.MULTILINE)
    assert re.search(r"^two +\d+ +3 +0 +0 +172\.33\.0\.0/16 +host-gw$", listed, re.MULTILINE)
    (one, two) = json.loads(percale.out("lab", "list", "-o", "json"))
    assert one == {
        **{"name": "lab", "pid": pid_of(percale), "network": "10.244.0.0/16", "backend": "vxlan"},
        **{"nodes": 3, "pods": 3, "ready": 3},
    }
    assert two["name"] == "two"
    assert percale.complaint("lab", "up") == (
        f"percale: a lab named lab is running already (pid {pid_of(percale)});"
        " end it with: percale lab down lab, or start another with --lab"
    )
    assert percale.out("lab", "down", "lab") == "ended: lab\n"
    assert "running: two (choose with --lab)" in percale.complaint("lab", "status")
    assert "one-segment" not in percale.out("lab", "status", "--lab", "two")
    assert percale.out("lab", "down", "--all") == "ended: two\n"
    assert percale.out("lab", "list") == "no lab is running; start one: percale lab up\n"
    assert json.loads(percale.out("lab", "list", "-o", "json")) == []
    assert "no lab named lab is running" in percale.complaint("lab", "down")


@pytest.mark.parametrize("path", sorted((ROOT / "examples/broken").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_broken_manifest_is_one_line_and_starts_nothing(percale: Person, path: Path) -> None:
    line = percale.complaint("lab", "up", "-f", "examples/nginx.yaml", "-f", str(path))
    assert re.match(rf"percale: {re.escape(str(path))}:\d+: ", line)
    assert not processes_of(percale.runtime)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kind: Lab\napiVersion: percale.io/v1alpha1\nspec: {nodes: [{name: a}, {name: a}]}\n",
            "two machines are named a",
        ),
        ("kind: Lab\napiVersion: percale.io/v1alpha1\nspec: {nodes: [{nam: a}]}\n", "nam"),
        ('{"Network": "10.0.0.0/30"}', "too small"),
        ('{"Network": "192.168.0.0/16"}', "the pod network 192.168.0.0/16 and segment a overlap"),
        ('{"Network": "10.0.0.0/16", "Backend": {"Type": "gce"}}', "the cloud backend"),
        ("{", "stdin"),
    ],
)
def test_what_cannot_be_a_lab_is_one_line(percale: Person, text: str, message: str) -> None:
    assert message in percale.complaint("lab", "up", "-f", "-", stdin=text)
    assert not processes_of(percale.runtime)


def test_names_and_files_that_cannot_be(percale: Person) -> None:
    assert "'../up' cannot name a lab" in percale.complaint("lab", "up", "--name", "../up")
    assert "nowhere.yaml: no such file" in percale.complaint("lab", "up", "-f", "nowhere.yaml")


def test_a_pod_that_fits_nowhere_is_named_and_the_lab_stays(percale: Person) -> None:
    manifest = """
apiVersion: v1
kind: Pod
metadata: {name: picky}
spec: {containers: [{name: c}], nodeSelector: {disk: ssd}}
"""
    shown = percale.out("lab", "up", "-f", "-", stdin=manifest, code=1)
    assert "pod default/picky: none of 3 nodes has the labels disk=ssd" in shown
    percale("lab", "label", "node", "node2", "disk=ssd")
    until(lambda: "default/picky" in percale.pods())
    assert percale.pods()["default/picky"]["spec"]["nodeName"] == "node2"


def test_a_person_who_is_not_root() -> None:
    """The same with only uid 1000 mapped, and no right over anything else."""
    runtime = Path("/run/user/1000")  # the lab has a /run of its own
    runtime.mkdir(mode=0o700, parents=True)
    script = f"""
set -e
export XDG_RUNTIME_DIR={runtime}
[ "$(id -u)" = 1000 ]
percale=.venv/bin/percale
$percale lab up -f examples/nginx.yaml
$percale lab probe gomo-test/$($percale lab get pods -n gomo-test -o name | head -1 | cut -d/ -f2) 203.0.113.2 80
$percale lab exec -n gomo-test deploy/nginx -- ip -br address show eth0
$percale lab node node1 -- ip route
timeout 5 $percale lab tcpdump -n gomo-test deploy/nginx -- --version
$percale lab down
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-user=1000", "--map-group=1000", "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "allowed: gomo-test/nginx-" in done.stdout
    assert "eth0" in done.stdout


def test_where_user_namespaces_are_forbidden_the_setting_is_named(percale: Person) -> None:
    script = f"""
echo 0 > /proc/sys/user/max_user_namespaces
XDG_RUNTIME_DIR={percale.runtime} exec .venv/bin/percale lab up
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "percale: this machine forbids user namespaces: user.max_user_namespaces is 0;"
        " type: sudo sysctl -w user.max_user_namespaces=15000\n"
    )


def test_machines_without_ip_say_what_to_install(percale: Person, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "nft"):
        (tools / name).symlink_to(shutil.which(name) or "")
    done = subprocess.run(
        [PERCALE, "lab", "up"],
        capture_output=True,
        text=True,
        env={**percale.environment, "PATH": str(tools)},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "percale: ip is not installed; type: sudo apt-get install -y iproute2 nftables\n"


def test_a_lab_whose_directory_is_gone_ends(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/nginx.yaml")
    pid = pid_of(percale)
    log = os.open(percale.runtime / "percale/labs/lab/log", os.O_RDONLY)
    home = percale.runtime / "percale/labs/lab"
    home.rename(home.with_name("gone"))  # at once, for the lab writes in it
    shutil.rmtree(home.with_name("gone"))
    until(lambda: not Path(f"/proc/{pid}").exists())
    words = os.read(log, 1 << 20).decode()
    os.close(log)
    assert "the lab ends: its directory is gone" in words
    assert "Traceback" not in words
    until(lambda: not processes_of(percale.runtime))


def test_a_full_disk_is_said_and_leaves_no_lab(percale: Person) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", percale.runtime], check=True)
    full = percale.runtime / "full"
    try:
        subprocess.run(["dd", "if=/dev/zero", f"of={full}"], capture_output=True, check=False)
        assert "labs/lab/pid: cannot be written: No space left on device" in percale.complaint("lab", "up")
        assert "no lab is running" in percale.out("lab", "list")
        assert processes_of(percale.runtime) == []
        full.unlink()
        percale("lab", "up")
        subprocess.run(["dd", "if=/dev/zero", f"of={full}"], capture_output=True, check=False)
        assert "node4" in percale.complaint("lab", "add-node", "node4")
        assert "No space left on device" in percale.complaint("lab", "add-node", "node4")
        assert "node4" not in percale.out("lab", "status")
        full.unlink()
        percale("lab", "add-node", "node4")
        percale("lab", "down")
    finally:
        subprocess.run(["umount", percale.runtime], check=True)
