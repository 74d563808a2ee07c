"""Packets in a lab: across the tunnel, in and out of the cluster, cut and healed, and while agents come and go."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from typing import Any

import pytest
from tests.e2e.conftest import PERCALE, ROOT, Person
from tests.waiting import until


@pytest.fixture
def web(percale: Person) -> Person:
    """Two nginx and two busybox pods."""
    percale("lab", "up", "-f", "examples/lab/workloads.yaml")
    return percale


def on(person: Person, node: str, prefix: str) -> str:
    """The pod of a workload on this node."""
    return next(
        key
        for key, pod in person.pods().items()
        if pod["spec"]["nodeName"] == node and key.startswith(f"default/{prefix}")
    )


def test_every_pod_reaches_every_pod_on_every_node(web: Person) -> None:
    dns = [on(web, f"node{number}", "dns") for number in (1, 2, 3)]
    for source in dns:
        for target in dns:
            assert web.probe(source, target, "53") == "allowed"
            assert web.probe(source, target, "53/UDP") == "allowed"
            assert web.probe(source, target, "54") == "refused"


def test_what_crosses_the_router_is_in_the_tunnel(web: Person) -> None:
    source, target = on(web, "node1", "dns"), on(web, "node3", "dns")
    address = web.pods()[target]["status"]["podIP"]
    watcher = subprocess.Popen(
        [PERCALE, "lab", "tcpdump", "node/node3", "--", "-l", "udp", "port", "8472"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=web.environment,
    )
    with watcher:
        assert watcher.stderr is not None
        until(lambda: "listening" in watcher.stderr.readline())  # type: ignore[union-attr]
        assert web.probe(source, target, "53") == "allowed"
        assert watcher.stdout is not None
        outer, inner = "", ""
        while f"> {address}.53" not in inner:  # the agents' echo requests pass as well
            outer, inner = inner, watcher.stdout.readline()
            assert inner
        watcher.send_signal(signal.SIGINT)
    assert ".8472: " in outer


def test_the_answer_names_pod_node_and_the_client_as_seen(web: Person) -> None:
    pods = web.pods()
    source, target = (key for key in pods if key.startswith("default/shop"))
    client, server = pods[source]["status"]["podIP"], pods[target]["status"]["podIP"]
    answer = web.out("lab", "exec", source, "--", "curl", "-sS", "--max-time", "5", f"http://{server}")
    lines = dict(line.split(": ", 1) for line in answer.splitlines())
    assert lines["pod"] == target
    assert lines["node"] == pods[target]["spec"]["nodeName"]
    assert server in lines["addresses"].split()
    assert lines["client"].rpartition(":")[0] == client
    outside = web.out("lab", "exec", source, "--", "curl", "-sS", "--max-time", "5", "http://203.0.113.2")
    assert "host: outside" in outside
    assert (
        f"client: {pods[source]['status']['hostIP']}:" in outside
    )  # its node's address: nobody out there knows the pod's


def test_addresses_hosts_and_nodes_are_ends_of_a_probe_too(web: Person) -> None:
    pod = on(web, "node3", "dns")
    address = web.pods()[pod]["status"]["podIP"]
    assert web.probe(pod, "external/outside", "80") == "allowed"
    assert web.probe(pod, "203.0.113.2", "53/udp") == "allowed"
    assert web.probe(address, "node/node1", "9") == "refused"
    assert web.probe("node/node3", address, "53") == "allowed"
    assert web.probe("deploy/shop", "sts/db", "5432") == "allowed"
    assert web.probe("external/outside", address, "53") == "allowed"
    shown = web.out("lab", "probe", pod, "deploy/shop", "80")
    assert re.match(
        r"allowed: default/dns-\w+ → default/shop-\S+, 10\.\S+:80/tcp, [\d.]+ ms;"
        r" pod default/shop-\S+ on node\d saw 10\.\S+:\d+$",
        shown.strip(),
    )
    assert "there is no pod default/node1; did you mean node/node1?" in web.complaint(
        "lab", "probe", "node1", pod, "80"
    )
    assert web.complaint("lab", "tcpdump", "node7") == (
        "percale: there is no pod default/node7; there are external/outside, node/node1, node/node2, node/node3"
    )
    assert web.complaint("lab", "get", "node", "nod1") == "percale: there is no node nod1; did you mean node1?"
    assert "has no port named http" in web.complaint("lab", "probe", pod, pod, "http")


def test_where_there_is_no_route_it_is_said_and_no_policy_is_asked(web: Person) -> None:
    """Policies and Services drop, or refuse for another; of a route that is missing `why` knows nothing."""
    pod = on(web, "node3", "dns")

    def asked(source: str, target: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(web.out("lab", "probe", source, target, "80", "-o", "json", code=1))
        return found

    def unreachable() -> dict[str, Any] | None:
        """Some kernels send few ICMP errors a second, for all namespaces of a machine together."""
        found = asked(pod, "9.9.9.9")
        return found if found["result"] == "unreachable" else None

    outside = until(unreachable)
    assert (outside["nobody"], outside["sender"], outside["routes"], outside["why"]) == (True, "the router", None, None)

    def shown() -> list[str]:
        return web.out("lab", "probe", pod, "9.9.9.9", "80", code=1).splitlines()

    lines = until(lambda: (seen := shown())[0].endswith("(Network is unreachable, from the router)") and seen)
    assert lines[1:] == ["nobody: no machine, pod or Service of this lab has 9.9.9.9"]
    assert web.complaint("lab", "probe", pod, "external/outside", "80", "-6").startswith(
        f"percale: {pod} has no IPv6 address; "
    )
    web.shell("percale lab node node3 -- ip route delete default")
    for source, sender in ((pod, "node/node3"), ("node/node3", None)):
        answer = asked(source, "external/outside")
        assert (answer["nobody"], answer["sender"], answer["why"]) == (False, sender, None)
        assert answer["routes"] == "percale lab exec node/node3 -- ip route"
        assert "default" not in web.shell(answer["routes"])


EMPTY = """\
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
"""


def test_a_service_that_refuses_is_asked_for_the_reason(web: Person) -> None:
    """Its pods' own refusal is not the Service's, and has no reason to be asked for."""
    web("lab", "apply", "-f", "-", stdin=EMPTY)
    pod = on(web, "node3", "dns")
    told = web.out("lab", "probe", pod, "svc/empty", "80", code=1).splitlines()
    assert told[0].endswith("(Connection refused, from node/node3)")
    assert told[1:] == [f"why: percale why {pod} svc/default/empty 80/tcp"]
    assert "no endpoint is ready" in web.shell(told[1].removeprefix("why: "), code=1)
    assert len(web.out("lab", "probe", pod, "deploy/shop", "9/udp", code=1).splitlines()) == 1


def test_cut_and_heal(web: Person) -> None:
    one, two, three = (on(web, f"node{number}", "dns") for number in (1, 2, 3))
    web("lab", "cut", "node1", "node3")
    assert web.probe(one, three, "53", "--timeout", "0.5") == "timeout"
    between = web.out("lab", "probe", "node/node3", "node/node1", "53", "--timeout", "0.5", code=1)
    assert [line.partition(":")[0] for line in between.splitlines()] == ["timeout", "cut"]
    assert web.probe(one, two, "53") == web.probe(two, three, "53") == "allowed"
    web("lab", "cut", "node1", "node2")
    said = web.out("lab", "probe", two, one, "53", "--timeout", "0.5", code=1).splitlines()
    undo = "cannot reach each other; undo it: percale lab heal"
    assert said[0].startswith("timeout: ")
    assert said[2:] == [f"cut: node1 and node2 {undo} node1 node2", f"cut: node1 and node3 {undo} node1 node3"]
    assert "cut: node1 and node2 cannot reach each other" in web.out("lab", "status")
    web("lab", "heal", "node3", "node1")
    assert web.probe(one, three, "53") == "allowed"
    assert web.out("lab", "heal") == "node1 and node2 can reach each other again\n"
    assert web.probe(one, two, "53") == "allowed"
    assert web.out("lab", "heal") == "nothing was cut\n"
    assert "there is no node or host nobody" in web.complaint("lab", "cut", "node1", "nobody")


def test_agents_notice_within_seconds_which_peers_do_not_answer(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/net-conf-directrouting.json")

    def peers(node: str) -> dict[str, tuple[bool, str, str | None]]:
        status = json.loads(percale.out("lab", "status", "-o", "json"))
        (machine,) = (each for each in status["machines"] if each["name"] == node)
        return {each["node"]: (each["reached"], each["path"], each["problem"]) for each in machine["peers"]}

    well = {"node2": (True, "direct", None), "node3": (True, "tunnel", None)}
    until(lambda: peers("node1") == well)
    assert re.search(r"^node1 .* 1 direct, 1 tunnel +ready, pid", percale.out("lab", "status"), re.MULTILINE)
    percale("lab", "cut", "node1", "node2")
    percale("lab", "cut", "node1", "node3")
    begun = time.monotonic()
    until(lambda: not any(reached for reached, _, _ in peers("node1").values()))
    until(lambda: not (peers("node2")["node1"][0] or peers("node3")["node1"][0]))
    assert time.monotonic() - begun < 20
    assert peers("node1")["node2"] == (False, "direct", "no answer from 192.168.1.3")
    assert peers("node3")["node2"] == (True, "tunnel", None)
    shown = percale.out("lab", "status")
    assert re.search(r"^node1 .* 2 not reached +ready, pid", shown, re.MULTILINE)
    assert "node2: node node1 is not reached: no answer from 192.168.1.2\n" in shown
    percale("lab", "heal")
    until(lambda: peers("node1") == well)
    until(lambda: "not reached" not in percale.out("lab", "status"))


@pytest.mark.parametrize("how", [(), ("--kill",)], ids=["term", "kill"])
def test_an_agent_that_starts_anew_disturbs_no_packet(web: Person, how: tuple[str, ...]) -> None:
    source, target = on(web, "node1", "dns"), on(web, "node3", "dns")
    before = web.pods()
    address = before[target]["status"]["podIP"]
    ping = subprocess.Popen(
        [PERCALE, "lab", "exec", source, "--", "ping", "-q", "-i", "0.01", "-c", "200", "-W", "1", address],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=web.environment,
    )
    with ping:
        for node in ("node1", "node3"):
            assert "ready after" in web.out("lab", "restart-agent", node, *how)
        shown, _ = ping.communicate(timeout=30)
    assert "200 received, 0% packet loss" in shown.replace("packets transmitted, ", "")
    assert web.pods() == before


def test_an_agent_that_dies_is_started_again(web: Person) -> None:
    pid = re.search(r"^node2 .*ready, pid (\d+) +0$", web.out("lab", "status"), re.MULTILINE)
    assert pid is not None
    web("lab", "node", "node2", "--", "kill", "-9", pid[1])
    until(lambda: re.search(r"^node2 .*ready, pid \d+ +1$", web.out("lab", "status"), re.MULTILINE) is not None)
    assert web.probe(on(web, "node2", "dns"), on(web, "node3", "dns"), "53") == "allowed"


def test_an_agent_that_cannot_start_says_why(web: Person) -> None:
    config = web.runtime / "percale/labs/lab/nodes/node1/agent.yaml"
    good = config.read_text()
    config.write_text(f"{good}nonsense: 1\n")
    why = f"{config}:{good.count(chr(10)) + 1}: unknown setting"
    assert why in web.complaint("lab", "restart-agent", "node1")
    assert why in web.out("lab", "status")
    config.write_text(good)
    until(lambda: re.search(r"^node1 .*ready, pid", web.out("lab", "status"), re.MULTILINE) is not None)


def test_a_pod_that_gets_no_address_says_why_and_gets_the_next_that_is_free(percale: Person) -> None:
    pods = "".join(
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}}}\nspec: {{nodeName: node1, containers: [{{name: c}}]}}\n"
        for number in (1, 2)
    )
    (percale.runtime / "net.json").write_text('{"Network": "10.0.0.0/24", "SubnetLen": 30}')
    net = str(percale.runtime / "net.json")
    shown = percale.out("lab", "up", "--timeout", "5", "-f", net, "-f", "-", stdin=pods, code=1)
    assert re.search(r"pod default/p\d: CNI ADD: .*/30 is full", shown)
    (winner,) = percale.pods()
    loser = "p2" if winner == "default/p1" else "p1"
    assert re.search(rf"^{loser} +0/1 +ContainerCreating .*is full", percale.out("lab", "get", "pods"), re.MULTILINE)
    percale("lab", "delete", "pod", winner.partition("/")[2])
    until(lambda: list(percale.pods()) == [f"default/{loser}"])


def test_a_node_comes_and_goes(web: Person) -> None:
    shown = web.out("lab", "add-node", "node4", "--segment", "b", "--label", "disk=ssd")
    assert shown == "node/node4 added: 192.168.2.3 on segment b, agent ready\n"
    until(lambda: any(pod["spec"]["nodeName"] == "node4" for pod in web.pods().values()))
    new = on(web, "node4", "dns")
    for number in (1, 2, 3):
        assert web.probe(on(web, f"node{number}", "dns"), new, "53") == "allowed"
    shops = {key for key in web.pods() if key.startswith("default/shop")}
    assert web.out("lab", "remove-node", "node4") == "node/node4 removed\n"
    assert web.out("lab", "remove-node", "node1") == "node/node1 removed\n"
    until(lambda: len([key for key in web.pods() if key.startswith("default/shop")]) == 2)
    pods = web.pods()
    assert {pod["spec"]["nodeName"] for pod in pods.values()} == {"node2", "node3"}
    assert {lease["spec"]["node"] for lease in web.objects("leases")} == {"node2", "node3"}
    assert {key for key in pods if key.startswith("default/shop")} != shops
    assert "there is no node node4; there are node2, node3" in web.complaint("lab", "remove-node", "node4")
    assert "node4" not in web.out("lab", "node", "node2", "--", "ip", "netns")
    for key in pods:
        assert web.probe("node/node2", key, "9") == "refused"
    assert "node/node4 added" in web.out("lab", "add-node", "node4")  # under the name of one that was there


def test_a_node_that_cannot_be_is_none(web: Person) -> None:
    assert "'a b' cannot name a machine; use small letters" in web.complaint("lab", "add-node", "a b")
    assert "n4: labels: Invalid value" in web.complaint("lab", "add-node", "n4", "--label", "a=b c")
    assert "there are node1, node2, node3" in web.complaint("lab", "remove-node", "n4")


def test_another_backend_for_all_nodes(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/lab/one-segment.yaml", "-f", "examples/lab/workloads.yaml")
    assert percale.out("lab", "migrate", "--backend", "host-gw") == "3 nodes have host-gw instead of vxlan\n"
    assert re.findall(r"\d (?:direct|tunnel)", percale.out("lab", "status")) == ["2 direct"] * 3
    source, target = (on(percale, f"node{number}", "dns") for number in (1, 2))
    assert percale.probe(source, target, "53") == "allowed"
    assert "the nodes have host-gw; its options are" in percale.complaint("lab", "migrate", "--backend", "host-gw")
    assert "nodes have no bgp beside another backend" in percale.complaint("lab", "migrate", "--backend", "bgp")


def test_a_backend_that_would_not_reach_a_node_is_not_taken(web: Person) -> None:
    said = web.complaint("lab", "migrate", "--backend", "host-gw")
    assert "the nodes keep their backend: by host-gw they would not reach node" in said
    assert "is behind a gateway" in said
    assert "backend vxlan," in web.out("lab", "status")
    assert web.probe(on(web, "node1", "dns"), on(web, "node3", "dns"), "53") == "allowed"


def test_several_people_may_restart_and_remove_a_node_at_once(web: Person) -> None:
    def at_once(*arguments: str) -> list[str]:
        """What each says on stderr."""
        command = [str(PERCALE), "lab", *arguments]
        running = [subprocess.Popen(command, text=True, stderr=subprocess.PIPE, env=web.environment) for _ in range(4)]
        return [each.communicate(timeout=60)[1] for each in running]

    assert at_once("restart-agent", "node2") == ["", "", "", ""]
    assert re.search(r"^node2 .*ready, pid \d+ +4$", web.out("lab", "status"), re.MULTILINE)
    for complaint in at_once("remove-node", "node2"):
        assert complaint == "" or "there is no node node2; there are node1, node3" in complaint


def test_a_users_own_server_takes_part(web: Person) -> None:
    """A program that a person starts in a pod is reached like any other."""
    pod = next(key for key in web.pods() if key.startswith("default/report"))
    other = on(web, "node2", "dns")
    assert web.probe(other, pod, "8080") == "refused"
    server = subprocess.Popen(
        [PERCALE, "lab", "exec", pod, "--", "python3", "-m", "http.server", "8080"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=web.environment,
    )
    with server:
        until(lambda: web.probe(other, pod, "8080") == "allowed")
        server.terminate()
    assert server.returncode == 128 + 15


def test_flannels_config_map_configures_the_lab(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/kube-flannel-cfg.yaml", "-f", "examples/nginx.yaml")
    assert "network 10.20.0.0/16, backend vxlan" in percale.out("lab", "status")
    one, two = percale.pods()
    assert percale.probe(one, two, "80") == "allowed"
    bridge = percale.out("lab", "node", "node1", "--", "ip", "-br", "link", "show", "type", "bridge")
    assert bridge.startswith("cni0")  # its cni-conf.json wires pods to flannel's bridge


def test_host_gw_on_one_segment(percale: Person) -> None:
    percale(
        "lab",
        "up",
        "-f",
        "examples/net-conf-host-gw.json",
        "-f",
        "examples/lab/one-segment.yaml",
        "-f",
        "examples/lab/workloads.yaml",
    )
    one, three = on(percale, "node1", "dns"), on(percale, "node3", "dns")
    assert percale.probe(one, three, "53") == "allowed"
    route = percale.out("lab", "node", "node1", "--", "ip", "route", "get", percale.pods()[three]["status"]["podIP"])
    assert "via 192.168.1.4 dev eth0" in route


def test_host_gw_through_a_router_is_warned_of(percale: Person) -> None:
    shown = percale.out("lab", "up", "-f", "examples/net-conf-host-gw.json")
    assert "note: host-gw joins nodes of one segment only, and node3 is behind the router" in shown
    reason = "is behind a gateway: host-gw needs all nodes on one network segment; use vxlan"
    status = percale.out("lab", "status")
    assert f"\nnode1: node node3 is not reached: 192.168.2.2 {reason}\n" in status
    away = rf"^node3: node node[12] is not reached: 192\.168\.1\.[23] {reason} \(and 1 more node with problems\)$"
    assert re.search(away, status, re.MULTILINE)


def test_dual_stack(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/lab/dual-stack.yaml", "-f", "examples/lab/workloads.yaml")
    one, three = on(percale, "node1", "dns"), on(percale, "node3", "dns")
    families = [":" in entry["ip"] for entry in percale.pods()[one]["status"]["podIPs"]]
    assert families == [False, True]
    for arguments in ((), ("-6",)):
        for port in ("53", "53/UDP"):
            assert percale.probe(one, three, port, *arguments) == "allowed"
            assert percale.probe(
                one, "external/outside", port.replace("53", "80") if port == "53" else port, *arguments
            ) == ("allowed")


def test_the_machines_of_a_document(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/lab/two-racks.yaml", "-f", "examples/lab/workloads.yaml")
    pods = percale.pods()
    a1, a2, b2 = (on(percale, node, "dns") for node in ("a1", "a2", "b2"))
    assert pods[b2]["status"]["hostIP"] == "10.2.0.20"
    assert percale.probe(a1, a2, "53") == percale.probe(a1, b2, "53") == "allowed"
    assert percale.probe(a1, "8.8.8.8", "53/UDP") == percale.probe(b2, "external/office", "80") == "allowed"
    inside = percale.out("lab", "node", "a1", "--", "ip", "route", "get", pods[a2]["status"]["podIP"])
    across = percale.out("lab", "node", "a1", "--", "ip", "route", "get", pods[b2]["status"]["podIP"])
    assert "dev eth0" in inside  # DirectRouting within a rack
    assert "dev flannel.1" in across
    node = json.loads(percale.out("lab", "get", "node", "b1", "-o", "json"))
    assert node["metadata"]["labels"]["disk"] == "ssd"


def test_nothing_of_the_lab_answers_on_this_machine(web: Person) -> None:
    address = web.pods()[on(web, "node1", "dns")]["status"]["podIP"]
    begun = time.monotonic()
    with pytest.raises(OSError):
        socket.create_connection((address, 53), timeout=0.5)
    assert time.monotonic() - begun < 5
