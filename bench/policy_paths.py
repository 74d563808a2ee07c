"""The cost of policies per packet: an established stream, and new connections allowed by the last of a hundred rules."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator

from bench.datapath import until_connected
from bench.routed_pair import CLIENT, PORT, SERVER, RoutedPair, routed_pair
from bench.rows import Row, in_turn, ratio
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
    """The same network with the policy and without, interleaved."""
    with routed_pair("with_policy") as with_policy, routed_pair("open") as without_policy:
        with_policy.load(_transaction([*_pods(), _policy()]))
        without_policy.load(_transaction(_pods()))
        with _streams(with_policy), _streams(without_policy):
            ours, theirs = in_turn(STREAM_ROUNDS, lambda: _throughput(with_policy), lambda: _throughput(without_policy))
        yield ratio("established TCP stream, policy on, against off", "Gbit/s", ours, theirs, 0.97, most=False)
        ours, theirs = in_turn(
            CONNECTING_ROUNDS,
            lambda: with_policy.connects(SERVER, PORT)[1],
            lambda: without_policy.connects(SERVER, PORT)[1],
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
    """A hundred ingress rules; the last allows the client."""
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


def _transaction(objects: list[Object]) -> Transaction:
    evaluator = Evaluator()
    changes = [evaluator.put(obj) for obj in objects]
    return PolicyRenderer(evaluator, "node").update(changes)


@contextlib.contextmanager
def _streams(pair: RoutedPair) -> Iterator[None]:
    """An iperf3 server."""
    command = (*pair.inside("server"), "iperf3", "-s", "-p", str(_STREAM_PORT))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as listener:
        try:
            yield
        finally:
            listener.terminate()


def _throughput(pair: RoutedPair) -> float:
    client = ("iperf3", "-c", SERVER, "-p", str(_STREAM_PORT), "-t", _STREAM_SECONDS, "-f", "g")
    out = until_connected([*pair.inside("client"), *client])
    found = re.search(r"([\d.]+) Gbits/sec\s+receiver", out)
    assert found is not None, out
    return float(found[1])
