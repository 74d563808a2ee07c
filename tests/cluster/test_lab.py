"""`percale lab up --kubernetes`, with the machine's kubectl."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.api_server import BINARIES
from tests.e2e.conftest import ROOT, Person, processes_of
from tests.waiting import until

from percale.lab.kubernetes.programs import NAMES

CURL = "curl -s -k --max-time 5"


@dataclass(frozen=True)
class Operator(Person):
    """Somebody with Kubernetes' programs, kubectl among them."""

    @property
    def environment(self) -> dict[str, str]:
        assert BINARIES is not None, "set KUBERNETES_BINARIES, as `make test-cluster` does"
        path = f"{ROOT / '.venv/bin'}:{BINARIES}:{os.environ['PATH']}"
        kubeconfig = str(self.runtime / "percale/labs/lab/kubeconfig")
        return {**super().environment, "PERCALE_CACHE": str(BINARIES.parent), "PATH": path, "KUBECONFIG": kubeconfig}

    def run(self, line: str, code: int = 0, stdin: str = "", seconds: float = 90) -> str:
        """A line that is typed at a shell; what it prints, on both streams."""
        done = subprocess.run(
            ["sh", "-c", f"{line} 2>&1"],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.environment,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == code, f"{line}: {done.returncode}\n{done.stdout}{self.logs()}"
        return done.stdout

    def get(self, what: str) -> dict[str, Any]:
        return dict(json.loads(self.run(f"kubectl get {what} -o json")))


@pytest.fixture
def operator(loopback: None, tmp_path: Path) -> Iterator[Operator]:
    person = Operator(tmp_path)
    yield person
    person("lab", "down", "--all")
    until(lambda: not processes_of(tmp_path))


def test_the_nginx_session(operator: Operator) -> None:
    shown = operator.run("percale lab up --kubernetes")
    assert "3 nodes and 0 pods are ready after" in shown
    assert "  export KUBECONFIG=$(percale lab kubeconfig)\n  kubectl get pods -A -o wide\n" in shown
    assert re.findall(
        r"^(node\d) +Ready .* v1\.\d+\.\d+ ", operator.run("kubectl get nodes -o wide"), re.MULTILINE
    ) == [*("node1", "node2", "node3")]

    operator.run("kubectl create namespace gomo-test")
    operator.run("kubectl config set-context --current --namespace=gomo-test")
    assert (
        operator.run("kubectl create deployment nginx --image=nginx --replicas=2") == "deployment.apps/nginx created\n"
    )
    assert operator.run("kubectl expose deployment nginx --port=80") == "service/nginx exposed\n"
    operator.run("kubectl rollout status deployment nginx --timeout=30s")
    operator.run("kubectl run busybox --image=busybox --command -- /bin/sh")
    operator.run("kubectl wait --for=condition=Ready pod --all --timeout=30s")
    pods = operator.run("kubectl get pods -o wide")
    assert len(re.findall(r"^nginx-\w+-\w+ +1/1 +Running +0 +\S+ +10\.244\.\d+\.\d+ +node\d ", pods, re.MULTILINE)) == 2
    assert re.search(r"^busybox +1/1 +Running +0 ", pods, re.MULTILINE)

    wget = "kubectl exec busybox -- wget --spider --timeout=1 --tries=1 nginx"
    assert "200 OK" in until(lambda: operator.run(wget), "the Service answers")
    assert '"HEAD / HTTP/1.1"' in operator.run("kubectl logs -l app=nginx")

    operator.run("kubectl label pods -l app=nginx run=nginx")
    assert operator.run("kubectl create -f examples/access-nginx.yaml") == (
        "networkpolicy.networking.k8s.io/access-nginx created\n"
    )
    until(lambda: operator.probe("gomo-test/busybox", "svc/gomo-test/nginx", "80", "--timeout", "1") == "timeout")
    assert "timed out" in operator.run(wget, code=4)
    operator.run("kubectl label pod busybox access=true")
    until(lambda: operator.probe("gomo-test/busybox", "svc/gomo-test/nginx", "80") == "allowed")
    assert "200 OK" in operator.run(wget)

    operator.run("kubectl delete deployment,service nginx")
    operator.run("kubectl delete pod busybox --wait=true")
    until(lambda: operator.run("kubectl get pods") == "No resources found in gomo-test namespace.\n")


def test_everything_of_a_lab_works_with_kubernetes(operator: Operator) -> None:
    operator.run("percale lab up --kubernetes -f examples/nginx.yaml -f examples/busybox.yaml")
    assert set(operator.pods()) >= {"gomo-test/busybox", "gomo-test/busybox-access"}
    kubeconfig = Path(operator.run("percale lab kubeconfig").strip())
    assert stat.S_IMODE(kubeconfig.stat().st_mode) == 0o600
    server = operator.run("kubectl config view -o jsonpath={.clusters[0].cluster.server}")
    assert re.fullmatch(r"https://127\.0\.0\.1:\d+", server)
    assert '"code": 401' in operator.run(f"{CURL} {server}/readyz")  # without a certificate nobody may anything
    node = operator.get("nodes")["items"][0]["status"]["addresses"][0]["address"]
    ask = f"percale lab exec gomo-test/busybox -- {CURL} https://{node}:10250/containerLogs/gomo-test/busybox/busybox"
    assert operator.run(f"{ask} || echo no answer") == "no answer\n"
    agent = operator.runtime / "percale/labs/lab/kubernetes/percale"
    assert operator.run(f"{ask} --cert {agent}.crt --key {agent}.key") == "only the API server may ask"
    assert operator.run("kubectl auth can-i --list --as percale").count("[create patch]") == 1

    # Objects
    assert "deployment.apps/nginx unchanged" in operator.run("percale lab apply -f examples/nginx.yaml")
    operator.run("percale lab scale -n gomo-test deploy/nginx --replicas 3")
    operator.run("percale lab rollout status -n gomo-test deploy/nginx")
    assert operator.get("deploy nginx -n gomo-test")["status"]["readyReplicas"] == 3
    operator.run("percale lab apply -f examples/services/node-port.yaml")
    operator.run("percale lab wait -n node-port --for=condition=Ready pod --all")
    operator.run("percale lab wait -n node-port --for=jsonpath={.status.loadBalancer.ingress[0].ip} svc/shop")
    address = operator.get("svc shop -n node-port")["status"]["loadBalancer"]["ingress"][0]["ip"]
    until(lambda: operator.probe("external/outside", address, "80") == "allowed")
    operator.run("percale lab delete -f examples/services/node-port.yaml")
    page = "kubectl get --raw /api/v1/namespaces/gomo-test/services/nginx/proxy/"  # from the API server to a pod
    assert until(lambda: operator.run(f"{page} || true")).startswith("pod: gomo-test/nginx-")
    sent = operator.run("percale lab apply -f -", stdin=_JOB)
    assert sent == (
        "job.batch/job created\n"
        "stdin:2: spec.ttlSecondsAfterFinished, spec.template.spec.tolerations left out; kubectl apply sends all of it\n"
    )
    operator.run("percale lab wait --for=condition=Ready pod -l app=job")
    operator.run("kubectl delete job job --wait=true --timeout=20s")
    until(lambda: operator.run("kubectl get pods") == "No resources found in default namespace.\n")
    refused = operator.run("percale lab apply -f -", code=2, stdin=_UNBINDABLE)
    assert refused.count("\n") == 1
    assert "spec.containers[0].image: Required value" in refused

    # Programs
    assert operator.run("kubectl exec -n gomo-test busybox -i -- cat", stdin="hello") == "hello"
    assert operator.run("kubectl exec -n gomo-test busybox -- sh -c 'exit 7'", code=7)
    tty = operator.run("script -qc 'kubectl exec -n gomo-test busybox -it -- sh -c \"tty; hostname\"' /dev/null")
    assert re.search(r"/dev/pts/\d+\s+busybox\s+$", tty)

    operator.run("timeout 1 kubectl logs -f -n gomo-test deploy/nginx", code=124)
    ask = "percale lab exec -n gomo-test busybox -- wget -q -O /dev/null nginx"
    operator.run(ask)
    captured = operator.run(
        f"percale lab tcpdump gomo-test/busybox -c 1 tcp & while kill -0 $! 2>/dev/null; do {ask}; done"
    )
    assert re.search(r"IP 10\.244\.\d+\.\d+\.\d+ > ", captured)
    watched = operator.run(f"timeout 8 percale lab watch & while kill -0 $! 2>/dev/null; do {ask}; done")
    assert re.search(r"allowed +gomo-test/busybox → gomo-test/nginx-\S+ \(\S+\) 80/tcp", watched)

    # Machines
    reported = heartbeats(operator)
    until(lambda: heartbeats(operator).isdisjoint(reported), "nodes report again, though nothing has changed")
    operator.run("percale lab add-node node4 --label disk=ssd")
    assert operator.get("node node4")["metadata"]["labels"]["disk"] == "ssd"
    operator.run("percale lab remove-node node1")
    until(lambda: all(pod["spec"].get("nodeName") != "node1" for pod in operator.get("pods -A")["items"]))
    until(lambda: operator.get("deploy nginx -n gomo-test")["status"].get("readyReplicas") == 3)
    operator.run("percale lab restart-agent node2 --kill")
    until(lambda: re.search("^node2 +Ready", operator.run("kubectl get nodes"), re.MULTILINE))
    assert operator.run("percale lab status").count(" ready, pid ") == 3
    assert "Traceback" not in (operator.runtime / "percale/labs/lab/log").read_text()


@contextmanager
def beside(operator: Operator, line: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs meanwhile."""
    pipe, both, environment = subprocess.PIPE, subprocess.STDOUT, operator.environment
    process = subprocess.Popen(shlex.split(line), stdout=pipe, stderr=both, text=True, cwd=ROOT, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextmanager
def forwarded(operator: Operator, what: str, ports: str) -> Iterator[subprocess.Popen[str]]:
    """A port of 127.0.0.1, once kubectl listens there."""
    with beside(operator, f"kubectl port-forward {what} {ports}") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Forwarding from 127.0.0.1:")
        yield process


def test_ports_are_forwarded_and_files_are_copied(operator: Operator, tmp_path: Path) -> None:
    operator.run("percale lab up --kubernetes -f examples/nginx.yaml -f examples/busybox.yaml")
    operator.run("kubectl config set-context --current --namespace=gomo-test")
    operator.run("kubectl wait --for=condition=Ready pod --all --timeout=30s")
    with forwarded(operator, "svc/nginx", "8001:80"):
        answers = operator.run("for n in $(seq 20); do curl -s -m 20 127.0.0.1:8001 & done; wait")
        assert len(re.findall(r"^pod: gomo-test/nginx-", answers, re.MULTILINE)) == 20
        assert answers.count("client: 127.0.0.1:") == 20

    large = tmp_path / "large"
    large.write_bytes(os.urandom(20_000_000))
    with beside(operator, f"kubectl exec busybox -- python3 -m http.server -d {tmp_path} 8080"):
        inside = "percale lab exec gomo-test/busybox -- curl -s -o /dev/null 127.0.0.1:8080 && echo yes || true"
        until(lambda: operator.run(inside) == "yes\n")
        with forwarded(operator, "pod/busybox", "8002:8080"):
            for _ in range(2):
                operator.run(f"curl -s -m 60 127.0.0.1:8002/large | cmp - {large}")
    with beside(operator, f"kubectl exec busybox -- socat -u TCP-LISTEN:8081 CREATE:{tmp_path}/received"):
        listening = "percale lab exec gomo-test/busybox -- ss -Hltn sport = 8081"
        until(lambda: operator.run(listening))
        with forwarded(operator, "pod/busybox", "8003:8081"):
            operator.run(f"socat -u FILE:{large} TCP:127.0.0.1:8003")
            until(
                lambda: (tmp_path / "received").read_bytes() == large.read_bytes(), "what the client sent is all there"
            )
    with forwarded(operator, "pod/busybox", "8004:81") as process:
        operator.run("curl -s -m 10 127.0.0.1:8004 || true")
        assert "the pod does not answer at port 81: Connection refused" in process.communicate(timeout=20)[0]

    operator.run(f"kubectl cp README.md busybox:{tmp_path}/to && kubectl cp busybox:{tmp_path}/to {tmp_path}/from")
    assert (tmp_path / "from").read_bytes() == (ROOT / "README.md").read_bytes()


def heartbeats(operator: Operator) -> set[str]:
    """When each node has reported last."""
    conditions = [each for node in operator.get("nodes")["items"] for each in node["status"]["conditions"]]
    return {each["lastHeartbeatTime"] for each in conditions if each["type"] == "Ready"}


def test_a_lab_that_is_killed_leaves_nothing(operator: Operator) -> None:
    operator.run("percale lab up --kubernetes")
    home = operator.runtime / "percale/labs/lab"
    assert (home / "kubernetes/etcd").is_dir()
    os.kill(int((home / "pid").read_text()), signal.SIGKILL)
    until(lambda: not processes_of(operator.runtime), "all its programs have ended")
    operator.run("percale lab down", code=2)
    assert not home.exists()


def test_without_root(operator: Operator) -> None:
    lines = (
        "percale lab up --kubernetes -f examples/nginx.yaml -f examples/busybox.yaml",
        "kubectl wait -n gomo-test --for=condition=Ready pod --all --timeout=60s",
        "kubectl exec -n gomo-test busybox -- wget -q -O - --timeout=5 nginx",
        "percale lab down",
    )
    typed = " && ".join(("test $(id -u) = 1000", *lines))
    shown = operator.run(f"unshare --user --map-user=1000 --map-group=1000 sh -c '{typed}'", seconds=240)
    assert "pod: gomo-test/nginx-" in shown


def test_a_program_that_cannot_start_is_told_and_leaves_no_lab(operator: Operator, tmp_path: Path) -> None:
    build = tmp_path / "cache/kubernetes-99.0"
    build.mkdir(parents=True)
    for name in NAMES:
        (build / name).write_text("#!/bin/sh\necho boom\nexit 3\n")
        (build / name).chmod(0o755)
    shown = operator.run(f"PERCALE_CACHE={tmp_path}/cache percale lab up --kubernetes", code=2)
    assert re.search(r"^percale: (etcd|kube-apiserver) ended \(3\): boom$", shown, re.MULTILINE)
    assert list((operator.runtime / "percale/labs").iterdir()) == []


def test_a_program_that_ends_is_started_again_and_told(operator: Operator) -> None:
    operator.run("percale lab up --kubernetes")
    scheduler = next(process for process in processes_of(operator.runtime) if "kube-scheduler" in process)
    os.kill(int(scheduler.partition(" ")[0]), signal.SIGKILL)
    log = operator.runtime / "percale/labs/lab/log"
    until(lambda: "kube-scheduler ended (-9): " in log.read_text())
    operator.run("kubectl run nginx --image=nginx")
    operator.run("kubectl wait --for=condition=Ready pod/nginx --timeout=30s")


_JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec:
  ttlSecondsAfterFinished: 60
  template:
    metadata: {labels: {app: job}}
    spec: {restartPolicy: Never, tolerations: [{operator: Exists}], containers: [{name: c, image: busybox}]}
"""
_UNBINDABLE = """
apiVersion: v1
kind: Pod
metadata: {name: odd}
spec: {containers: [{name: c}]}
"""
