"""Questions to every command, each with the code that it ends with. What a code and a JSON document mean is in docs/answers.py.

Asked by tests/unit/docs/test_answers.py, and in a lab by tests/e2e/test_lab_answers.py.
"""

from __future__ import annotations

from collections.abc import Mapping

WORLD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}
"""
CLOSED = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
"""
DEPLOYED = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: deployed}
spec:
  selector: {matchLabels: {app: deployed}}
  template: {metadata: {labels: {app: deployed}}, spec: {containers: [{name: c}]}}
"""
CASES = """\
name: c
manifests: [closed.yaml]
pods: [{namespace: default, name: web, ips: [10.0.0.1], labels: {app: web}}]
probes: [{from: 10.0.0.9, to: default/web, protocol: TCP, port: 80, allowed: %s}]
"""
PLAN = """\
apiVersion: percale.io/v1alpha1
kind: AddressPlan
spec:
  ranges:
  - {for: nodes, form: "10.{room:0-9}.0.{host}"}
  - {for: pods, bits: "172.16.0.0/12 node:12 pod:8"}
"""
FILES = {
    "plan.yaml": PLAN,
    "overlap.yaml": PLAN.replace("172.16.0.0/12", "10.0.0.0/12"),
    "world.yaml": WORLD,
    "closed.yaml": CLOSED,
    "right.yaml": CASES % "false",
    "wrong.yaml": CASES % "true",
    "bad.yaml": WORLD.replace("port: 80", "port: 0"),
    "open.yaml": "kind: [",
    "deployed.yaml": DEPLOYED,
    "stuck.yaml": DEPLOYED.replace("deployed", "stuck").replace("spec: {con", "spec: {nodeSelector: {no: node}, con"),
}
"""In the directory where the questions are asked."""

WITHOUT_A_LAB: Mapping[str, Mapping[str, int]] = {
    "completion": {"bash": 0, "zsh": 0, "fish": 0},
    "lab down": {"--all": 0},
    "lab list": {"": 0},
    "matrix": {"-f world.yaml": 0, "-f world.yaml --diff world.yaml": 0, "-f world.yaml --diff closed.yaml": 1},
    "plan check": {"plan.yaml": 0, "overlap.yaml": 1},
    "plan name": {"--plan plan.yaml 10.4.0.1": 0, "--plan plan.yaml 10.4.0.1 8.8.8.8": 1},
    "plan next": {"--plan plan.yaml": 0, "--plan plan.yaml --taken 10.0.0.0/8": 1},
    "plan render": {"--plan plan.yaml net-conf": 0},
    "policy check": {"world.yaml": 0, "open.yaml": 1},
    "policy test": {"right.yaml": 0, "wrong.yaml": 1},
    "service check": {"world.yaml": 0, "bad.yaml": 1},
    "service list": {"-f world.yaml": 0},
    "service resolve": {"10.0.0.9 svc/default/web:80 --node n1 -f world.yaml": 0},
    "service show": {"web -f world.yaml": 0},
    "why": {
        "client web http -f world.yaml": 0,
        "10.0.0.9 web 80 -f world.yaml": 1,
        "client svc/web:http -f world.yaml": 0,
    },
}
"""By command, and then by its arguments."""

IN_A_LAB: Mapping[str, Mapping[str, int]] = {
    "lab add-node": {"node4": 0},
    "lab apply": {"-f world.yaml": 0, "-f stuck.yaml": 0},
    "lab wait": {"pod/web pod/client --for=condition=Ready": 0, "pod/web --for=delete --timeout=0.1s": 1},
    "lab cut": {"node1 node2": 0},
    "lab heal": {"": 0},
    "lab exec": {"client -- true": 0, "client -- sh -c 'exit 7'": 7, "client -- nosuch": 127},
    "lab get": {"pods": 0, "pod web": 0},
    "lab describe": {"pods": 0, "svc/web": 0},
    "lab logs": {"web": 0},
    "lab label": {"pod client a=b": 0},
    "lab node": {"node1 -- true": 0, "node1 -- sh -c 'exit 7'": 7},
    "lab probe": {"client web 80": 0, "external/outside web 80 --timeout 0.3": 1},
    "trace": {"client web 80": 0, "external/outside web 80": 1},
    "lab restart-agent": {"node1": 0},
    "lab rollout restart": {"deploy/deployed": 0},
    "lab rollout status": {"deploy/deployed": 0, "deploy/stuck --timeout 0.1s": 1},
    "lab scale": {"deploy/deployed --replicas 2": 0},
    "lab status": {"": 0},
    "lab tcpdump": {"client -- --version": 0},
    "lab watch": {"--for 0.1": 0},
    "lab remove-node": {"node4": 0},
    "lab delete": {"-f world.yaml": 0},
}
"""In this order, in one lab that began with deployed.yaml."""

ELSEWHERE = {
    "agent": "tests/e2e/test_agent_commands.py",
    "apply": "tests/unit/cli/test_objects.py",
    "bgp routes": "tests/e2e/test_lab_bgp.py",
    "bgp status": "tests/e2e/test_lab_bgp.py",
    "delete": "tests/unit/cli/test_objects.py",
    "doctor": "tests/kernel/agent/test_doctor.py",
    "etcd init": "tests/unit/cli/test_etcd.py",
    "etcd reserve": "tests/unit/cli/test_etcd.py",
    "etcd show": "tests/unit/cli/test_etcd.py",
    "ipam check": "tests/unit/cli/test_ipam.py",
    "ipam release": "tests/unit/cli/test_ipam.py",
    "ipam show": "tests/unit/cli/test_ipam.py",
    "lab break": "tests/e2e/test_lab_break.py",
    "lab kubeconfig": "tests/cluster/test_lab.py",
    "get": "tests/unit/cli/test_objects.py",
    "lab up": "tests/e2e/test_lab_life.py",
    "lab migrate": "tests/e2e/test_lab_network.py",
    "migrate": "tests/cluster/test_migrate.py",
    "mk-docker-opts": "tests/unit/cli/test_mk_docker_opts.py",
    "preflight": "tests/kernel/test_preflight.py",
    "status": "tests/e2e/test_agent_commands.py",
    "support": "tests/kernel/agent/test_support.py",
}
"""Commands that are not asked here, and the tests that ask them."""

NO_ANSWER: Mapping[str, str] = {
    "agent": "--config nosuch.yaml",
    "apply": "-f world.yaml --store files:/nosuch",
    "bgp routes": "--http unix:/nosuch",
    "bgp status": "--http unix:/nosuch",
    "completion": "csh",
    "delete": "pod web --store files:/nosuch",
    "doctor": "--config nosuch.yaml",
    "etcd init": "--store files:/tmp world.yaml",
    "etcd reserve": "--store etcd:http://127.0.0.1:1 --public-ip 192.0.2.7 10.5.7.0/24",
    "etcd show": "--store etcd:http://127.0.0.1:1",
    "get": "pods --store etcd:http://127.0.0.1:1",
    "ipam check": "--store etcd:http://127.0.0.1:1",
    "ipam release": "10.0.0.0/26 --store etcd:http://127.0.0.1:1",
    "ipam show": "--store files:/nosuch",
    "lab add-node": "node4",
    "lab apply": "-f world.yaml",
    "lab break": "3",
    "lab cut": "node1 node2",
    "lab delete": "pod web",
    "lab describe": "pods",
    "lab down": "",
    "lab exec": "web -- true",
    "lab get": "pods",
    "lab heal": "",
    "lab kubeconfig": "",
    "lab label": "pod web a=b",
    "lab list": "--nosuch",
    "lab logs": "web",
    "lab migrate": "--backend host-gw",
    "lab node": "node1 -- true",
    "lab probe": "client web 80",
    "lab remove-node": "node4",
    "lab restart-agent": "node1",
    "lab rollout restart": "deploy/web",
    "lab rollout status": "deploy/web",
    "lab scale": "deploy/web --replicas 2",
    "lab status": "",
    "lab tcpdump": "web",
    "lab up": "-f open.yaml",
    "lab wait": "pod/web --for=condition=Ready",
    "lab watch": "--for 0.1",
    "matrix": "-f open.yaml",
    "migrate": "--from flannel --config nosuch.yaml",
    "mk-docker-opts": "-f nosuch.env",
    "plan check": "world.yaml",
    "plan name": "--plan plan.yaml 10.4.7",
    "plan next": "--plan plan.yaml --rom 4",
    "plan render": "--plan nosuch.yaml net-conf",
    "policy check": "world.yaml --pod-cidr nonsense",
    "policy test": "open.yaml",
    "preflight": "--network-file nosuch.json",
    "service check": "world.yaml --service-cidr nonsense",
    "service list": "-f open.yaml",
    "service resolve": "nobody svc/default/web:80 --node n1 -f world.yaml",
    "service show": "nobody -f world.yaml",
    "status": "--http unix:/nosuch",
    "support": "--config nosuch.yaml",
    "trace": "client web 80",
    "why": "clinet web 80 -f world.yaml",
}
"""What cannot be answered where no lab runs."""
