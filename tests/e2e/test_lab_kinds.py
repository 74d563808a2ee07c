"""All objects of a kind at once, rollouts anew, and output that nobody reads to its end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.e2e.conftest import PERCALE, ROOT, Person
from tests.waiting import until

NS = ("-n", "gomo-test")
PODS = "".join(
    f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{tier: {tier}}}}}\nspec: {{containers: [{{name: c}}]}}\n"
    for name, tier in (("a", "front"), ("b", "front"), ("c", "back"))
)


@pytest.fixture
def lab(percale: Person) -> Person:
    percale("lab", "up", "-f", "examples/nginx.yaml")
    return percale


def test_all_objects_of_a_kind_as_kubectl_means_them(lab: Person) -> None:
    lab("lab", "apply", "-f", "-", stdin=PODS)
    assert lab.out("lab", "label", "pods", "-l", "tier=front", "seen=yes").splitlines() == [
        "pod/a labeled",
        "pod/b labeled",
    ]
    for nothing_said in (("pods",), ("pods", "-l", ""), ("pods", "-A"), ("pods,svc", *NS)):
        said = lab("lab", "delete", *nothing_said, code=2).stderr
        assert "name the objects, or say which of the kind: --all or -l SELECTOR" in said
    for both in (("pod", "a", "--all"), ("pod/a", "-l", "tier=front"), ("pod/a", "-A"), ("-f", "x.yaml", "--all")):
        lab("lab", "delete", *both, code=2)
    assert lab.out("lab", "delete", "pods", "-l", "seen=yes").splitlines() == ["pod/a deleted", "pod/b deleted"]
    assert lab.out("lab", "delete", "po", "--all") == "pod/c deleted\n"
    assert lab("lab", "delete", "pods", "--all").stderr == "no pods in namespace default; 3 elsewhere: -A shows all\n"
    assert lab.out("lab", "scale", "deploy", "--all", "--replicas=0", *NS) == "deployment.apps/nginx scaled to 0\n"
    until(lambda: not any(pod.startswith("gomo-test/") for pod in lab.pods()))
    assert (
        lab.out("lab", "delete", "deploy,svc", "--all", *NS) == "deployment.apps/nginx deleted\nservice/nginx deleted\n"
    )
    stays = [f"namespace/{name} stays: every cluster has it" for name in ("default", "kube-system")]
    assert sorted(lab.out("lab", "delete", "ns", "--all").splitlines()) == [
        *stays[:1],
        "namespace/gomo-test deleted",
        *stays[1:],
    ]
    assert lab.objects("deploy") == []


def test_a_rollout_can_be_restarted_and_has_no_history(lab: Person) -> None:
    before = {pod for pod in lab.pods() if pod.startswith("gomo-test/")}
    assert lab.out("lab", "rollout", "restart", "deploy", *NS) == "deployment.apps/nginx restarted\n"
    lab("lab", "rollout", "status", "deploy/nginx", *NS, "--timeout", "20s")
    until(lambda: len(after := {pod for pod in lab.pods() if pod.startswith("gomo-test/")}) == 2 and not after & before)
    assert "deployment.apps/nginx unchanged" in lab.out("lab", "apply", "-f", "examples/nginx.yaml")
    assert "a service cannot be restarted; name a deployment" in lab.complaint(
        "lab", "rollout", "restart", "svc/nginx", *NS
    )
    for verb in ("undo", "history"):
        said = lab("lab", "rollout", verb, "deploy/nginx", *NS, code=2).stderr
        assert "Error: a lab keeps no earlier revisions: apply the manifest that you want" in said


def test_a_name_with_its_namespace_is_told_how_to_write_it(lab: Person) -> None:
    lab("lab", "apply", "-f", "examples/busybox.yaml")
    named = "pod/gomo-test/busybox"
    for words in (("describe", "pod", "gomo-test/busybox"), ("get", named), ("wait", named, "--for=delete")):
        said = lab("lab", *words, code=2).stderr
        assert said.endswith("gomo-test/busybox is no name of an object; write: pod busybox -n gomo-test\n")
    said = lab("lab", "tcpdump", "node/node1", "-c", "2", "--", "-e", code=2).stderr
    assert said.endswith("Error: No such option '-c' of the lab's; the program's stand behind --\n")


def head(person: Person, lines: int, *arguments: str) -> subprocess.Popen[str]:
    """As before `| head -LINES`."""
    command = [str(PERCALE), "lab", *arguments]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=person.environment
    )
    assert running.stdout is not None
    for _ in range(lines):
        assert running.stdout.readline()
    running.stdout.close()
    return running


def test_output_that_nobody_reads_to_its_end_is_141(percale: Person) -> None:
    with head(percale, 3, "up", "-f", "examples/nginx.yaml") as up:
        assert up.wait(60) == 141
    percale("lab", "wait", "--for=condition=Ready", "pod", "--all", *NS)
    with (
        head(percale, 1, "get", "deploy", *NS, "-w") as watching,
        head(percale, 1, "get", "svc", *NS, "-w", "-o", "name") as named,
    ):
        percale("lab", "label", "deploy/nginx", "svc/nginx", "cut=yes", *NS)
        percale("lab", "scale", "deploy/nginx", "--replicas=3", *NS)
        assert (watching.wait(60), named.wait(60)) == (141, 141)
        assert watching.stderr is not None
        assert watching.stderr.read() == ""


def test_hints_name_a_lab_that_is_not_the_usual_one(percale: Person) -> None:
    percale("lab", "up", "--lab", "b")
    up = "percale lab up --lab another -f examples/net-conf-vxlan.json"
    assert percale.complaint("lab", "apply", "--lab", "b", "-f", "examples/net-conf-vxlan.json").endswith(
        f"network; start another: {up}"
    )
    assert "lab another: pods in 10.20.0.0/16" in percale.shell(up)
    said = percale.complaint("lab", "probe", "--lab", "b", "node/node1", "svc/zzzzz", "80")
    assert said.endswith("percale lab get --lab b svc -A")
    percale.shell(said.rpartition("; ")[2])
    said = percale.complaint("lab", "exec", "--lab", "c", "nosuch", "--", "true")
    assert said.endswith("running: another, b (choose with --lab)")


CRON_JOB = """
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup}
spec:
  schedule: "0 3 * * *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: nginx}]}}}}
"""
POOL = "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: a}, spec: {cidr: 10.50.0.0/16}}"


def test_a_cron_job_has_pods_to_ask_for_and_a_pool_has_no_effect(percale: Person, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"{CRON_JOB}---\n{POOL}\n")
    told = f"{tmp_path}/m.yaml:9: warning: IPPool a has no effect: a lab's agents run without ipPools"
    shown = percale.out("lab", "up", "nightly", "-f", str(tmp_path / "m.yaml"))
    assert told in shown.splitlines()
    assert "3 nodes and 1 pod are ready" in shown
    lab = ("--lab", "nightly")
    assert percale.out("lab", "apply", *lab, "-f", str(tmp_path / "m.yaml")).splitlines() == [
        "cronjob.batch/backup unchanged",
        "ippool.crd.projectcalico.org/a unchanged",
        told,
    ]
    assert percale.probe("cronjob/backup", "node/node1", "80", *lab) == "refused"
    assert percale.probe("node/node1", "cj/backup", "80", *lab) == "allowed"
    assert percale.out("why", *lab, "cj/backup", "node/node1:80").startswith(
        "cj/backup: its first pod is default/backup-"
    )
    assert "0 3 * * *" in percale.out("lab", "get", *lab, "all")
    assert percale.out("lab", "delete", *lab, "cj", "backup") == "cronjob.batch/backup deleted\n"
    until(lambda: not percale.pods(*lab) and not percale.objects("jobs", *lab))


def test_a_lab_is_named_by_a_word_of_its_own(percale: Person) -> None:
    percale("lab", "up", "one")
    listed = percale.out("lab", "list")
    assert listed == percale.out("lab", "list", "one") == percale.out("lab", "list", "--lab", "one")
    assert percale.complaint("lab", "list", "two").startswith("percale: no lab named two is running; running: one")
    plan = str(ROOT / "examples/plan/two-rooms.yaml")
    assert percale.out("lab", "status", "one").startswith("lab one: network 10.244.0.0/16")
    said = percale("lab", "down", "one", "--lab", "two", code=2).stderr
    assert "two labs are named: one and two" in said
    status = percale.out("lab", "node", "--lab", "one", "node1", "--", str(PERCALE), "status", "--plan", plan)
    assert "# " not in status
    Path(percale.runtime / "plan.yaml").write_text(Path(plan).read_text().replace("172.16.0.0/12", "10.240.0.0/12"))
    words = ("status", "--plan", str(percale.runtime / "plan.yaml"))
    status = percale.out("lab", "node", "--lab", "one", "node1", "--", str(PERCALE), *words)
    assert "   # 10.244." in status
    assert percale.out("lab", "down", "one") == "ended: one\n"


EXPORTED = """
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata: {name: worker-1}
  spec: {podCIDRs: [192.168.77.0/24]}
- apiVersion: v1
  kind: Pod
  metadata: {name: there}
  spec: {nodeName: worker-1, containers: [{name: c}]}
  status: &ready
    {phase: Running, hostIP: 10.0.0.5, podIPs: [{ip: 192.168.77.3}], conditions: [{type: Ready, status: "True"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: anywhere}
  spec: {containers: [{name: c}]}
  status: *ready
"""


def test_what_another_clusters_objects_say_of_it_is_not_so_here(percale: Person, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(EXPORTED)
    shown = percale.out("lab", "up", "-f", str(tmp_path / "all.yaml"), code=1)
    assert f"{tmp_path}/all.yaml:5: Node worker-1 is no machine of this lab, left out" in shown
    assert "these cannot be:\n  pod default/there: its node worker-1 is not there" in shown
    assert percale.pods()["default/anywhere"]["status"]["podIP"].startswith("10.244.")
    assert [node["metadata"]["name"] for node in percale.objects("nodes")] == ["node1", "node2", "node3"]
    assert "Node worker-1 is no machine" in percale.out("lab", "apply", "-f", str(tmp_path / "all.yaml"))
