"""The cluster's objects in a lab: get, apply, delete, scale, label, and files that people edit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from tests.e2e.conftest import Person
from tests.waiting import until

POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  containers: [{{name: c, ports: [{{containerPort: 80}}]}}]
"""


@pytest.fixture
def lab(percale: Person) -> Person:
    percale("lab", "up", "-f", "examples/nginx.yaml")
    return percale


def test_get_shows_what_kubectl_shows(lab: Person) -> None:
    table = lab.out("lab", "get", "pods", "-n", "gomo-test").splitlines()
    assert table[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert all(re.match(r"nginx-\w{10}-\w{5} +1/1 +Running +0 +\d+s$", line) for line in table[1:])
    wide = lab.out("lab", "get", "po", "-A", "-o", "wide").splitlines()
    assert wide[0].split() == ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert re.search(r"nginx +2/2 +2 +2 +\d+s", lab.out("lab", "get", "deploy", "-A"))
    assert re.search(r"^node1 +Ready ", lab.out("lab", "get", "nodes"), re.MULTILINE)
    assert re.search(r"^nginx +ClusterIP .*80/TCP", lab.out("lab", "get", "svc", "-n", "gomo-test"), re.MULTILINE)
    assert lab.out("lab", "get", "deploy", "-A", "-o", "name") == "deployment.apps/nginx\n"
    one = yaml.safe_load(lab.out("lab", "get", "deploy/nginx", "-n", "gomo-test", "-o", "yaml"))
    assert (one["apiVersion"], one["kind"], one["spec"]["replicas"]) == ("apps/v1", "Deployment", 2)
    done = lab("lab", "get", "pods")
    assert (done.stdout, done.stderr) == ("", "no pods in namespace default; 3 elsewhere: -A shows all\n")
    done = lab("lab", "get", "pods", "-n", "gomo-tes")
    assert done.stderr == "no pods in namespace gomo-tes; 3 elsewhere: -A shows all; did you mean -n gomo-test?\n"
    assert "there is no kind 'pots'; did you mean pod" in lab.complaint("lab", "get", "pots")
    assert "there is no pod x in namespace default" in lab.complaint("lab", "get", "pod", "x")
    for command in (
        ("get", "deploy", "nginx"),
        ("describe", "deploy/nginx"),
        ("scale", "deploy/nginx", "--replicas=3"),
    ):
        said = "percale: there is no deployment nginx in namespace default; did you mean -n gomo-test?"
        assert lab.complaint("lab", *command) == said
    for selector, selected in (
        ("run!=nginx", []),
        ("run in (nginx, other),!tier", ["deployment.apps/nginx"]),
        ("run notin (other)", ["deployment.apps/nginx"]),
    ):
        found = lab.out("lab", "get", "deployments", "-l", selector, "-n", "gomo-test", "-o", "name").split()
        assert found == selected
    assert "is no label selector; write app=web" in lab.complaint("lab", "get", "deployments", "-l", "app=a b")


def test_apply_says_what_it_did_and_pods_follow(lab: Person) -> None:
    assert lab.out("lab", "apply", "-f", "examples/nginx.yaml").splitlines() == [
        "namespace/gomo-test unchanged",
        "deployment.apps/nginx unchanged",
        "service/nginx unchanged",
    ]
    text = Path("examples/nginx.yaml").read_text().replace("replicas: 2", "replicas: 3")
    assert "deployment.apps/nginx configured" in lab.out("lab", "apply", "-f", "-", stdin=text)
    until(lambda: len(lab.pods()) == 3)
    assert lab.out("lab", "apply", "-n", "shop", "-f", "-", stdin=POD.format(name="p", node="node2")).splitlines() == [
        "namespace/shop created",
        "pod/p created",
    ]
    until(lambda: "shop/p" in lab.pods())
    assert lab.pods()["shop/p"]["spec"]["nodeName"] == "node2"


def test_a_new_template_replaces_the_pods(lab: Person) -> None:
    before = set(lab.pods())
    text = Path("examples/nginx.yaml").read_text().replace("image: nginx", "image: nginx:2")
    lab("lab", "apply", "-f", "-", stdin=text)
    until(lambda: len(lab.objects("pods")) == 2 and not before & set(lab.pods()))
    assert {pod["spec"]["containers"][0]["image"] for pod in lab.objects("pods")} == {"nginx:2"}


def test_a_directory_with_one_bad_file_changes_nothing(lab: Person, tmp_path: Path) -> None:
    before = lab.objects("pods")
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "a.yaml").write_text(POD.format(name="good", node="node1"))
    (directory / "b.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: 7}\n")
    assert f"{directory}/b.yaml:4: spec.containers: expected" in lab.complaint("lab", "apply", "-f", str(directory))
    assert lab.objects("pods") == before
    (directory / "b.yaml").unlink()
    assert lab.out("lab", "apply", "-f", str(directory)) == "pod/good created\n"


def test_scale_and_delete(lab: Person) -> None:
    assert lab.out("lab", "scale", "-n", "gomo-test", "deploy/nginx", "--replicas", "4") == (
        "deployment.apps/nginx scaled to 4\n"
    )
    until(lambda: len(lab.pods()) == 4)
    victim = next(iter(lab.pods()))
    assert lab.out("lab", "delete", "pod", "-n", "gomo-test", victim.partition("/")[2]).endswith("deleted\n")
    until(lambda: len(lab.pods()) == 4 and victim not in lab.pods())
    lab("lab", "scale", "-n", "gomo-test", "deployment", "nginx", "--replicas", "0")
    until(lambda: not lab.objects("pods"))
    assert "a service has no replicas" in lab.complaint(
        "lab", "scale", "-n", "gomo-test", "svc/nginx", "--replicas", "1"
    )
    lab("lab", "scale", "-n", "gomo-test", "deployment", "nginx", "--replicas", "1")
    assert lab.out("lab", "delete", "-f", "examples/nginx.yaml").splitlines() == [
        "service/nginx deleted",
        "deployment.apps/nginx deleted",
        "namespace/gomo-test deleted",
    ]
    until(lambda: not lab.objects("pods"))
    assert lab.out("lab", "node", "node1", "--", "ip", "netns").count("gomo-test") == 0


def test_addresses_of_pods_that_are_gone_are_free_again(lab: Person) -> None:
    for _ in range(3):
        lab("lab", "apply", "-f", "-", stdin=POD.format(name="p", node="node3"))
        until(lambda: "default/p" in lab.pods())
        assert (
            lab.probe("gomo-test/" + lab.objects("pods", "-l", "run=nginx")[0]["metadata"]["name"], "p", "80")
            == "allowed"
        )
        lab("lab", "delete", "pod", "p")
        until(lambda: "default/p" not in lab.pods())
    status = json.loads(lab.out("lab", "node", "node3", "--", "percale", "status", "-o", "json"))
    here = [pod for pod in lab.pods().values() if pod["spec"]["nodeName"] == "node3"]
    assert len([pod for pod in status["pods"] if pod["pod"] != "kube-system/dns"]) == len(here)


def test_a_label_that_no_api_server_takes_is_refused(lab: Person) -> None:
    assert 'metadata.labels: Invalid value: "b c"' in lab.complaint("lab", "label", "node", "node1", "a=b c")


def test_label(lab: Person) -> None:
    assert lab.out("lab", "label", "node", "node1", "disk=ssd", "rack=1") == "node/node1 labeled\n"
    assert [node["metadata"]["name"] for node in lab.objects("nodes", "-l", "disk=ssd")] == ["node1"]
    assert lab.out("lab", "label", "node/node1", "disk-") == "node/node1 labeled\n"
    assert lab.objects("nodes", "-l", "disk=ssd") == []
    assert lab.out("lab", "label", "node", "node1", "rack=1") == "node/node1 unchanged\n"


def test_files_that_people_put_into_the_store_count(lab: Person) -> None:
    """The store is a directory: an editor is as good as `apply`."""
    store = lab.runtime / "percale/labs/lab/store"
    (store / "mine.yaml").write_text(POD.format(name="mine", node="node3"))
    until(lambda: "default/mine" in lab.pods())
    (store / "mine.yaml").write_text("kind: [")
    until(lambda: f"store: {store}/mine.yaml" in lab.out("lab", "status"))
    assert "default/mine" in lab.pods()
    (store / "mine.yaml").unlink()
    until(lambda: "default/mine" not in lab.pods())


def test_a_name_that_is_a_path_gets_nowhere(lab: Person) -> None:
    text = POD.format(name='"../../../evil"', node="node1")
    lab("lab", "apply", "-f", "-", stdin=text, code=2)
    store = lab.runtime / "percale/labs/lab/store"
    (store / "evil.yaml").write_text(text)
    lab("lab", "apply", "-f", "-", stdin=POD.format(name="good", node="node1"))
    until(lambda: "default/good" in lab.pods())
    assert not list(lab.runtime.rglob("evil"))


def test_a_pod_that_would_terminate_for_ever_goes_when_it_is_deleted_again(lab: Person) -> None:
    endless = POD.replace("spec:", "spec:\n  terminationGracePeriodSeconds: 9223372036854775807")
    lab("lab", "apply", "-f", "-", stdin=endless.format(name="endless", node="node2"))
    until(lambda: "default/endless" in lab.pods())
    assert lab.out("lab", "delete", "pod", "endless") == "pod/endless deleted\n"
    assert "Terminating" in lab.out("lab", "get", "pod", "endless")
    assert lab.probe("node/node1", "endless", "80") == "allowed"
    assert lab.out("lab", "delete", "pod", "endless") == "pod/endless deleted\n"
    assert "there is no pod endless" in lab.complaint("lab", "get", "pod", "endless")


@pytest.mark.parametrize("text", ["[" * 100_000, f'{{"kind": {"9" * 5000}}}', '{"Network": "\\ud800"}'])
def test_json_that_nobody_can_read_is_one_line(percale: Person, text: str) -> None:
    assert percale.complaint("lab", "up", "-f", "-", stdin=text).startswith("percale: stdin:1: ")


def test_exec_is_inside_the_pod(lab: Person) -> None:
    pod = next(iter(lab.pods()))
    name, address = pod.partition("/")[2], lab.pods()[pod]["status"]["podIP"]
    shown = lab.out(
        "lab", "exec", pod, "--", "sh", "-c", "hostname; cat /etc/hosts /etc/resolv.conf; ls /sys/class/net; pwd"
    )
    assert shown.startswith(f"{name}\n")
    assert f"{address}\t{name}\n" in shown
    assert "search gomo-test.svc.cluster.local" in shown
    assert "eth0\nlo\n" in shown
    assert shown.endswith(f"{Path.cwd()}\n")
    assert lab("lab", "exec", "-n", "gomo-test", name, "--", "sh", "-c", "exit 7", code=7).stderr == ""
    assert lab.out("lab", "exec", "-it", pod, "--", "hostname") == f"{name}\n"
    assert lab.out("lab", "node", "-ti", "node1", "--", "hostname") == "node1\n"
    assert lab("lab", "exec", pod, "--", "sh", "-c", "kill -9 $$", code=137).stdout == ""
    assert lab.out("lab", "exec", pod, "--", "cat", stdin="through\n") == "through\n"
    assert "nosuch: no such program" in lab.complaint("lab", "exec", pod, "--", "nosuch", code=127)
    assert "there is no pod default/x" in lab.complaint("lab", "exec", "x", "--", "true")
    assert "there is no pod x/" in lab.complaint("lab", "exec", pod.partition("/")[2] or pod, "-n", "x", "--", "true")
    assert "write -n before the name" in lab("lab", "exec", pod, "-n", "x", "true", code=2).stderr
    assert "127.0.0.1" in Path("/etc/hosts").read_text()
    assert address not in Path("/etc/hosts").read_text()


def test_host_network_pods_are_on_their_nodes_network(lab: Person) -> None:
    text = POD.format(name="host", node="node1").replace("nodeName", "hostNetwork: true\n  nodeName")
    lab("lab", "apply", "-f", "-", stdin=text)
    until(lambda: "default/host" in lab.pods())
    assert lab.pods()["default/host"]["status"]["podIP"] == "192.168.1.2"
    assert lab.probe("node/node3", "node/node1", "80") == "allowed"
    lab("lab", "delete", "pod", "host")
    until(lambda: lab.probe("node/node3", "node/node1", "80") == "refused")


def test_a_network_of_another_cluster_does_not_change_a_lab_that_runs(lab: Person) -> None:
    shown = lab.out("lab", "apply", "-f", "examples/kube-flannel-cfg.yaml").splitlines()
    assert shown[-1] == (
        "configmap/kube-flannel-cfg does not change this lab: a running lab keeps its network;"
        " a new one takes it: percale lab up --lab another -f examples/kube-flannel-cfg.yaml"
    )
    assert "10.244.0.0/16" in lab.out("lab", "list")
    lab("lab", "up", "--name", "flannels", "-f", "examples/kube-flannel-cfg.yaml")
    again = lab.out("lab", "apply", "--lab", "flannels", "-f", "examples/kube-flannel-cfg.yaml")
    assert "does not change" not in again


OWNED = """
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: {owner}, uid: x, controller: true}}]
spec: {{containers: [{{name: c}}]}}
"""


def test_a_pod_whose_owner_is_not_there_is_warned_of(lab: Person, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(OWNED.format(name="lost", owner="gone"))
    done = lab.out("lab", "apply", "-f", str(tmp_path / "m.yaml"))
    assert done.splitlines() == [
        "pod/lost created",
        f"{tmp_path}/m.yaml:2: warning: Pod default/lost is deleted at once: ReplicaSet gone, which owns it, is not there;"
        " apply that too, or take metadata.ownerReferences out",
    ]
    until(lambda: "default/lost" not in lab.pods())
    owner = lab.out("lab", "get", "rs", "-n", "gomo-test", "-o", "name").splitlines()[0].partition("/")[2]
    (tmp_path / "m.yaml").write_text(OWNED.format(name="kept", owner=owner))
    done = lab.out("lab", "apply", "-n", "gomo-test", "-f", str(tmp_path / "m.yaml"))
    assert done == "pod/kept created\n"


def test_hints_of_the_lab_name_it_where_the_asker_means_another(lab: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    question = ("lab", "probe", "node/node1", "svc/zzzzz", "80")
    assert lab.complaint(*question).endswith("; percale lab get svc -A")
    with monkeypatch.context() as there:
        there.setattr(Person, "environment", {**lab.environment, "PERCALE_LAB": "another"})
        said = lab.complaint(*question, "--lab", "lab")
    assert said.endswith("; percale lab get --lab lab svc -A")
