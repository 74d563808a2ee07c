"""What policies cost packets: an established stream; new connections judged by the last of a hundred rules. Run by `policies`."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator

from bench.datapath import until_connected
from bench.rows import Row, in_turn, ratio
from bench.wires import CLIENT, PORT, SERVER, Wires, wires
from percale.model.meta import Object, ObjectMeta
from percale.model.networkpolicy import (
    NetworkPolicy,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
)
from percale.model.pod import Container, Pod, PodSpec, PodStatus
from percale.model.selector import LabelSelector
from percale.policy.evaluator import Evaluator
from percale.render.nft.objects import Transaction
from percale.render.policy.renderer import PolicyRenderer

RULES = 100
STREAM_ROUNDS, CONNECTING_ROUNDS = 9, 51
_STREAM_PORT = 5201
_STREAM_SECONDS = "2"


def paths() -> Iterator[Row]:
    """The same wires with the policy and without, in turn."""
    with wires("judged") as judged, wires("open") as free:
        judged.load(_image([*_pods(), _policy()]))
        free.load(_image(_pods()))
        with _streams(judged), _streams(free):
            ours, theirs = in_turn(STREAM_ROUNDS, lambda: _throughput(judged), lambda: _throughput(free))
        yield ratio("established TCP stream, policy on, against off", "Gbit/s", ours, theirs, 0.97, most=False)
        ours, theirs = in_turn(
            CONNECTING_ROUNDS, lambda: judged.connects(SERVER, PORT)[1], lambda: free.connects(SERVER, PORT)[1]
        )
        what = f"new connections, the last of {RULES} rules, against none"
        yield ratio(what, "1/s", ours, theirs, 0.9, most=False)


def _pods() -> list[Object]:
    return [
        Pod(
            metadata=ObjectMeta(name=name, namespace="default", labels={"app": name}),
            spec=PodSpec(nodeName="node", containers=(Container(name="main"),)),
            status=PodStatus(phase="Running", podIP=address),
        )
        for name, address in (("client", CLIENT), ("server", SERVER))
    ]


def _policy() -> NetworkPolicy:
    """Many callers of one port each, the client as the last one."""
    others = [
        NetworkPolicyIngressRule(from_=(_app(f"other-{number}"),), ports=(NetworkPolicyPort(port=1000 + number),))
        for number in range(RULES - 1)
    ]
    return NetworkPolicy(
        metadata=ObjectMeta(name="callers", namespace="default"),
        spec=NetworkPolicySpec(
            podSelector=_selector("server"),
            ingress=(*others, NetworkPolicyIngressRule(from_=(_app("client"),))),
        ),
    )


def _app(name: str) -> NetworkPolicyPeer:
    return NetworkPolicyPeer(podSelector=_selector(name))


def _selector(name: str) -> LabelSelector:
    return LabelSelector(matchLabels={"app": name})


def _image(objects: list[Object]) -> Transaction:
    evaluator = Evaluator()
    touched = [evaluator.put(obj) for obj in objects]
    return PolicyRenderer(evaluator, "node").update(touched)


@contextlib.contextmanager
def _streams(way: Wires) -> Iterator[None]:
    """Somebody at the server who takes streams."""
    command = (*way.inside("server"), "iperf3", "-s", "-p", str(_STREAM_PORT))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as listener:
        try:
            yield
        finally:
            listener.terminate()


def _throughput(way: Wires) -> float:
    client = ("iperf3", "-c", SERVER, "-p", str(_STREAM_PORT), "-t", _STREAM_SECONDS, "-f", "g")
    out = until_connected([*way.inside("client"), *client])
    found = re.search(r"([\d.]+) Gbits/sec\s+receiver", out)
    assert found is not None, out
    return float(found[1])
