"""What kubectl users script with, in a lab: templates, lists of several kinds, watching, waiting for states."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest
from tests.e2e.conftest import PERCALE, ROOT, Person
from tests.waiting import until

NS = ("-n", "gomo-test")


@pytest.fixture
def lab(percale: Person) -> Person:
    percale("lab", "up", "-f", "examples/nginx.yaml")
    return percale


@contextmanager
def following(lab: Person, *arguments: str) -> Iterator[IO[str]]:
    """What a command prints that goes on until Ctrl-C."""
    running = subprocess.Popen(
        [PERCALE, "lab", *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=lab.environment
    )
    try:
        assert running.stdout is not None
        yield running.stdout
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
    finally:
        running.kill()
        running.communicate()


def test_templates_and_lists_of_several_kinds(lab: Person) -> None:
    template = '{range .items[*]}{.metadata.name} {.status.containerStatuses[0].ready}{"\\n"}{end}'
    lines = lab.out("lab", "get", "pods", *NS, "-o", f"jsonpath={template}").splitlines()
    assert [line.split()[1] for line in lines] == ["true", "true"]
    assert lab.out("lab", "get", "deploy/nginx", *NS, "-o", "jsonpath={.status.readyReplicas}") == "2"
    ready = '{.status.conditions[?(@.type=="Ready")].status}'
    assert lab.out("lab", "get", "node", "node1", "-o", f"jsonpath={ready}") == "True"
    everything = lab.out("lab", "get", "all", *NS)
    assert [line.split("/")[0] for line in everything.splitlines() if "/nginx" in line] == [
        "pod",
        "pod",
        "service",
        "deployment.apps",
        "replicaset.apps",
    ]
    both = json.loads(lab.out("lab", "get", "svc/nginx", "deploy/nginx", *NS, "-o", "json"))
    assert [each["kind"] for each in both["items"]] == ["Service", "Deployment"]
    assert "jsonpath '{.a', character 4: '}' is missing" in lab.complaint("lab", "get", "pods", "-o", "jsonpath={.a")
    partly = lab("lab", "get", "svc", "nginx", "apache", *NS, code=2)
    assert partly.stdout.splitlines()[1].startswith("nginx ")
    assert partly.stderr == "percale: there is no service apache in namespace gomo-test\n"


def test_watching_shows_each_change_and_goes_on(lab: Person) -> None:
    with following(lab, "get", "deploy", *NS, "-w") as lines:
        assert lines.readline().split()[:2] == ["NAME", "READY"]
        assert lines.readline().split()[1] == "2/2"
        lab("lab", "scale", "deploy/nginx", "--replicas", "3", *NS)
        seen: list[str] = []
        while not seen or seen[-1].split()[1] != "3/3":
            seen.append(lines.readline())
        assert seen[0].split()[1] == "2/3"
        assert all(line.index("/") == seen[0].index("/") for line in seen)
        lab("lab", "delete", "deploy", "nginx", *NS)
        assert lines.readline().split()[:2] == ["nginx", "3/3"]


def test_describe_and_logs(lab: Person) -> None:
    lab("lab", "apply", "-f", "examples/busybox.yaml", "-f", "examples/access-nginx.yaml")
    lab("lab", "wait", "--for=condition=Ready", "pod", "--all", *NS)
    lab("lab", "scale", "deploy/nginx", "--replicas", "1", *NS)
    until(lambda: len(lab.pods()) == 3)
    assert lab.probe("gomo-test/busybox-access", "svc/gomo-test/nginx", "80") == "allowed"
    address = lab.pods()["gomo-test/busybox-access"]["status"]["podIP"]
    (line,) = lab.out("lab", "logs", "deploy/nginx", *NS).splitlines()
    assert re.search(rf"Z {address}:\d+ → 10\.244\.\d+\.\d+:80/tcp \"GET / HTTP/1.0\"$", line)
    assert "nothing answers for gomo-test/busybox" in lab.complaint("lab", "logs", "busybox", *NS)
    with following(lab, "logs", "-f", "--tail", "1", "deploy/nginx", *NS) as lines:
        assert lines.readline() == f"{line}\n"
        assert lab.probe("gomo-test/busybox-access", "svc/gomo-test/nginx", "80") == "allowed"
        assert lines.readline() not in ("", f"{line}\n")
    page = lab.out("lab", "describe", "pod", "-l", "run=nginx", *NS)
    assert re.search(r"^Network Policies: +access-nginx$", page, re.MULTILINE)
    assert re.search(
        r"^Endpoints: +10\.244\.\d+\.\d+:80  nginx-", lab.out("lab", "describe", "svc/nginx", *NS), re.MULTILINE
    )
    assert re.search(r"^Agent: +ready, pid \d+, 0 restarts$", lab.out("lab", "describe", "no", "node1"), re.MULTILINE)
    assert "    From:\n      PodSelector: access=true\n" in lab.out("lab", "describe", "netpol", *NS)
    assert "there is no pod x" in lab.complaint("lab", "describe", "pod", "x")


def test_waiting_for_states(lab: Person) -> None:
    lab("lab", "scale", "deploy/nginx", "--replicas", "4", *NS)
    three = "jsonpath={.status.readyReplicas}=4"
    assert lab.out("lab", "wait", f"--for={three}", "deploy/nginx", *NS) == "deployment.apps/nginx condition met\n"
    done = lab.out("lab", "wait", "--for=condition=Ready", "pod", "-l", "run=nginx", *NS).splitlines()
    assert len(done) == 4
    assert all(line.startswith("pod/nginx-") and line.endswith(" condition met") for line in done)
    assert lab.out("lab", "wait", "--for=condition=available", "deploy", "--all", "-A") == (
        "deployment.apps/nginx condition met\n"
    )
    late = lab.complaint("lab", "wait", "--for=delete", "deploy/nginx", "--timeout=0.2s", *NS, code=1)
    assert late == "percale: timed out waiting for the condition on deployment.apps/nginx"
    pods = [name.removeprefix("gomo-test/") for name in lab.pods()]
    lab("lab", "delete", "deploy", "nginx", *NS)
    lab("lab", "wait", "--for=delete", "pod", *pods, *NS)
    assert lab.pods() == {}
    assert lab.out("lab", "wait", "--for=delete", "deploy/nginx", *NS) == ""
    assert "there is no deployment nginx" in lab.complaint(
        "lab", "wait", "--for=condition=Available", "deploy/nginx", *NS
    )
    for odd in (
        ("--for=ready", "pod", "--all"),
        ("--for=condition=Ready", "pod"),
        ("--for=delete", "pod/a", "--timeout=x"),
    ):
        assert lab("lab", "wait", *odd, code=2).stdout == ""


def test_a_rollout_is_followed_to_its_end(lab: Person) -> None:
    text = (ROOT / "examples/nginx.yaml").read_text().replace("image: nginx", "image: nginx:2")
    lab("lab", "apply", "-f", "-", stdin=text)
    shown = lab.out("lab", "rollout", "status", "deployment/nginx", *NS).splitlines()
    assert shown[-1] == 'deployment "nginx" successfully rolled out'
    assert all(line.startswith('Waiting for deployment "nginx" rollout to finish: ') for line in shown[:-1])
    assert {pod["spec"]["containers"][0]["image"] for pod in lab.objects("pods")} == {"nginx:2"}
    lab("lab", "apply", "-f", "examples/lab/workloads.yaml")
    assert lab.out("lab", "rollout", "status", "sts", "db").endswith("statefulset rolling update complete 2 pods...\n")
    assert lab.out("lab", "rollout", "status", "ds/dns").endswith('daemon set "dns" successfully rolled out\n')
    assert "a job has no rollout" in lab.complaint("lab", "rollout", "status", "job/report")
    unready = text.replace("image: nginx:2", "image: nginx:3").replace(
        "    spec:\n", "    spec:\n      nodeSelector: {disk: none}\n"
    )
    lab("lab", "apply", "-f", "-", stdin=unready)
    stuck = lab("lab", "rollout", "status", "deploy/nginx", "--timeout=500ms", *NS, code=1)
    assert "old replicas are pending termination" in stuck.stdout
    assert stuck.stderr == "percale: timed out waiting for the condition\n"
    assert "pending termination" in lab.out("lab", "rollout", "status", "deploy/nginx", "--no-watch", *NS)
