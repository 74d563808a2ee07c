"""Policy tests with real packets: a lab for each batch of cases, updated from state to state. Called by cli/policy/test.py.

    LabPlan ─▶ lab up ─┬─▶ for each state: delete, apply what differs ─▶ pods Ready ─▶ marker in force ─▶ probes, in parallel
                       └─▶ lab down

A marker policy shows that every node has applied a state: in each state it opens one more port between pods of the runner's
own; a node where that port is reachable has applied everything written before.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from percale.cni.requests import ANNOTATION
from percale.errors import LabError
from percale.explain.policy_tests.cases import Case, Probe
from percale.explain.policy_tests.runner import Trial, changes, pairs, try_offline, try_probe
from percale.lab.api.client import ask
from percale.lab.policy_tests.placement import LABS, Batch, LabPlan, States, batches, is_placed
from percale.lab.run_dir import LabDir, locate, take_down
from percale.lab.up import start
from percale.model.manifest.encode import to_plain
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.namespace import Namespace
from percale.model.pod import Container, Pod, PodSpec
from percale.policy.evaluator import Evaluator

MARKERS = "percale-policy-test"
_FIRST_MARK = 10000
_PROBES = 32
"""Probes at a time in one lab."""
_DENIED_TIMEOUT, _ALLOWED_TIMEOUT = 0.8, 4.0
"""Seconds without an answer after which a probe counts as denied, by the expected result."""
_SYNC_TIMEOUT = 20.0
"""Seconds for pods to be Ready and policies to be applied."""

Waiting = Callable[[], list[str]]


def try_live(sequences: Sequence[States]) -> list[Trial]:
    """Every probe of every case, in their order. Raises LabError when a lab does not come up."""
    pending = batches(sequences)
    found: dict[int, list[Trial]] = {}
    for begin in range(0, len(pending), LABS):
        for batch, trials in zip(
            pending[begin : begin + LABS], _run_wave(pending[begin : begin + LABS], begin), strict=True
        ):
            for sequence, own in zip(batch.sequences, trials, strict=True):
                found[id(sequence)] = own
    return [trial for sequence in sequences for trial in found[id(sequence)]]


def _run_wave(pending: Sequence[Batch], number: int) -> list[list[list[Trial]]]:
    """Run some batches in parallel; trials by batch, by sequence."""
    named = [(f"policy-test-{os.getpid()}-{number + index}", batch) for index, batch in enumerate(pending)]
    with _labs(named) as lab_dirs, ThreadPoolExecutor(LABS, thread_name_prefix="batch") as threads:
        return list(threads.map(_try_batch, pending, lab_dirs))


@contextmanager
def _labs(pending: Sequence[tuple[str, Batch]]) -> Iterator[list[LabDir | None]]:
    """Running labs. They are started one after the other: starting one forks, which must not happen beside threads."""
    lab_dirs: list[LabDir | None] = []
    try:
        for name, batch in pending:
            lab_dirs.append(locate(name) if batch.needs_lab else None)
            if batch.needs_lab and batch.plan is not None:
                _start(name, batch.plan)
        yield lab_dirs
    finally:
        for lab_dir in lab_dirs:
            if lab_dir is not None:
                take_down(lab_dir)


def _documents(items: Iterable[dict[str, Any]]) -> list[list[str]]:
    return [["the case", json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)})]]


def _start(name: str, plan: LabPlan) -> None:
    documents = [plan.document, *map(to_plain, (*plan.leases(), *_markers(plan)))]
    output: list[str] = []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"apiVersion": "v1", "kind": "List", "items": documents}, file)
        file.flush()
        if start(name, [file.name], _SYNC_TIMEOUT, False, echo=output.append) != 0:
            raise LabError(f"the lab for these cases does not come up: {' '.join(output)}")


def _try_batch(batch: Batch, lab_dir: LabDir | None) -> list[list[Trial]]:
    if batch.plan is None or lab_dir is None:
        return [
            [replace(trial, apart=batch.why_not_sent(trial.case, trial.probe)) for trial in try_offline(sequence)]
            for sequence in batch.sequences
        ]
    lab = _Lab(lab_dir, batch.plan)
    return [[trial for case in sequence for trial in lab.try_case(case)] for sequence in batch.sequences]


# Markers


def _markers(plan: LabPlan) -> Iterator[Object]:
    """A marker pod on each node, and one that probes them all."""
    yield Namespace(metadata=ObjectMeta(name=MARKERS))
    for index, node in enumerate((plan.node_subnets[0], *plan.node_subnets)):
        name = f"on-{node.name}" if index else "asker"
        yield Pod(
            metadata=ObjectMeta(name=name, namespace=MARKERS, annotations={ANNOTATION: ",".join(plan.spare(node))}),
            spec=PodSpec(containers=(Container(name="marker"),), nodeName=node.name),
        )


def _marker_policy(port: int) -> dict[str, Any]:
    """Evaluated before all other policies: none of them applies between markers."""
    markers = {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": MARKERS}}}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "0-percale-policy-test"},
        "spec": {
            "tier": "Admin",
            "priority": 0,
            "subject": markers,
            "ingress": [
                {
                    "action": "Accept",
                    "from": [markers],
                    "protocols": [{"tcp": {"destinationPort": {"number": port}}}],
                },
                {"action": "Deny", "from": [markers]},
            ],
            "egress": [{"action": "Accept", "to": [markers]}],
        },
    }


# A lab


@dataclass(slots=True)
class _Lab:
    """One lab and the objects applied to it."""

    lab_dir: LabDir
    plan: LabPlan
    _known: dict[tuple[type[Object], ObjectKey], Object] = field(default_factory=dict)
    _mark: int = _FIRST_MARK

    def try_case(self, case: Case) -> list[Trial]:
        """Bring the lab to this state and send its probes; the evaluator answers those that cannot be sent, and no others."""
        reasons = [self.plan.why_not_sent(case, probe) for probe in case.probes]
        sent = [probe for probe, reason in zip(case.probes, reasons, strict=True) if reason is None]
        if sent:
            self._apply_state(case)
        with ThreadPoolExecutor(_PROBES, thread_name_prefix="probe") as threads:
            trials = threads.map(lambda probe: self._try(case, probe), sent)
            evaluator = Evaluator(case.objects) if len(sent) < len(reasons) else None
            return [
                next(trials)
                if evaluator is None or reason is None
                else replace(try_probe(evaluator, case, probe), apart=reason)
                for probe, reason in zip(case.probes, reasons, strict=True)
            ]

    def _apply_state(self, case: Case) -> None:
        pods = [self.plan.placed(pod) for pod in case.pods if is_placed(pod)]
        gone, fresh, everything = changes(self._known, [*case.namespaces, *pods, *case.policies])
        moved = [each for each in fresh if isinstance(each, Pod) and self._is_moved(each)]
        gone = [each for each in gone if not isinstance(each, Namespace)]
        if gone or moved:
            ask(self.lab_dir, "delete_documents", documents=_documents(map(to_plain, [*gone, *moved])), namespace=None)
        if fresh:
            self._apply([to_plain(each) for each in fresh])
        self._known = {(type(each), each.key): each for each in everything}
        self._until("pods are not Ready", lambda: ask(self.lab_dir, "missing")["missing"])
        self._mark += 1
        self._apply([_marker_policy(self._mark)])
        self._until("policies are not in force", self._nodes_behind)

    def _is_moved(self, pod: Pod) -> bool:
        """Whether the pod's address or node differs from the applied pod's: it must be recreated."""
        known = self._known.get((Pod, pod.key))
        if not isinstance(known, Pod):
            return False
        return (known.spec.nodeName, known.spec.hostNetwork, known.metadata.annotations) != (
            pod.spec.nodeName,
            pod.spec.hostNetwork,
            pod.metadata.annotations,
        )

    def _apply(self, items: Iterable[dict[str, Any]]) -> None:
        ask(self.lab_dir, "apply", documents=_documents(items), namespace=None, validate="strict")

    def _until(self, what: str, waiting: Waiting) -> None:
        deadline = time.monotonic() + _SYNC_TIMEOUT
        while left := waiting():
            if time.monotonic() > deadline:
                raise LabError(f"after {_SYNC_TIMEOUT:g} s {what}: {'; '.join(left)}")
            time.sleep(0.02)

    def _nodes_behind(self) -> list[str]:
        """Nodes on which the marker's newest port is not open yet."""
        return [
            node.name
            for node in self.plan.node_subnets
            if self._probe(f"{MARKERS}/asker", f"{MARKERS}/on-{node.name}", self._mark, "TCP", 0.2)["result"]
            == "timeout"
        ]

    def _probe(self, source: str, target: str, port: int, protocol: str, timeout: float) -> dict[str, Any]:
        return ask(
            self.lab_dir,
            "probe",
            source=source,
            target=target,
            port=f"{port}/{protocol}",
            namespace=None,
            version=None,
            timeout_seconds=timeout,
        )

    def _try(self, case: Case, probe: Probe) -> Trial:
        for _, destination in pairs(case, probe):
            trial = self._try_address(case, probe, destination)
            if trial.wrong:
                break
        return trial

    def _machine(self, case: Case, address: str) -> str:
        """The host, the node or the pod that has it."""
        if address in self.plan.machines:
            return self.plan.machines[address]
        return next(str(pod.key) for pod in case.pods if is_placed(pod) and address in pod.status.addresses)

    def _try_address(self, case: Case, probe: Probe, destination: str) -> Trial:
        source = probe.source if "/" in probe.source else self._machine(case, probe.source)
        timeout = _ALLOWED_TIMEOUT if probe.allowed else _DENIED_TIMEOUT
        answer = self._probe(source, destination, probe.port or 0, probe.protocol, timeout)
        result = answer["result"]
        if result == "unreachable":
            return Trial(case, probe, None, f"{answer['reason']}, from {probe.source} to {destination}")
        allowed = result in ("allowed", "refused")  # refused: the packet arrived, no socket listens
        reason = f"{result} after {answer['milliseconds']:.0f} ms"
        if allowed != probe.allowed:
            output = try_probe(Evaluator(case.objects), case, probe)
            reason += f"; the evaluator says {output.found}: {output.reason}"
        return Trial(case, probe, allowed, reason)
