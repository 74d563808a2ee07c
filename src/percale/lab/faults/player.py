"""Makes a fault in a lab, undoes it, and sees whether it is mended. Called by `percale lab break`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec

from percale.errors import LabError
from percale.lab.api.client import ask, get_objects
from percale.lab.api.status import LabStatus
from percale.lab.faults.fault import Agent, Connection, Fault, Line
from percale.lab.faults.world import NAMESPACE, NODES, manifest, names
from percale.lab.process.bootstrap import NETNS
from percale.lab.process.nsenter import ExecTarget, run_inside
from percale.lab.run_dir import LabDir

_PATIENCE = 30.0
"""Seconds for the pods that are played with."""
_PROBE = 1.0


class Player:
    """Of one lab, which is a default one. Raises LabError, NoSuchLab."""

    def __init__(self, lab_dir: LabDir) -> None:
        self._lab_dir = lab_dir
        self._status = msgspec.convert(ask(lab_dir, "status"), LabStatus)
        there = {machine.name for machine in self._status.machines}
        if not there.issuperset(NODES) or self._status.backend != "vxlan":
            raise LabError("the faults are those of a default lab", hint="start one: percale lab up --lab game")

    def play(self, fault: Fault) -> None:
        """Make the world, unless it is there, and the fault. A fault that is there already is refused."""
        self._apply(manifest())
        deadline = time.monotonic() + _PATIENCE
        while missing := self._missing() or self.broken(fault):
            if time.monotonic() > deadline:
                hint = f"undo what was broken before, as by {self._lab_dir.command(f'break {fault.number} --undo')}"
                raise LabError(f"something is broken already: {missing[0]}", hint=hint)
        self._run(fault.lines)
        if fault.manifest is not None:
            self._apply(fault.manifest)

    def _missing(self) -> list[str]:
        """Pods that do not run yet."""
        return [each for each in ask(self._lab_dir, "missing")["missing"] if f" {NAMESPACE}/" in each]

    def undo(self, fault: Fault) -> None:
        """As it was before; what the player has mended already stays so."""
        self._run(fault.undo)
        if fault.added is not None:
            kind, name = fault.added.split()
            wanted = [{"kind": kind, "names": [name]}]
            if name in self._objects(kind):
                ask(self._lab_dir, "delete", wanted=wanted, namespace=NAMESPACE, everywhere=False, selector="")
        self._apply(manifest())

    def broken(self, fault: Fault) -> list[str]:
        """What of it is not mended."""
        return [str(each) for each in fault.mended if not self._is_answered(each)]

    def spelled(self, text: str) -> str:
        """With what this lab has for what stands in the text."""
        for name, value in self._names.items():
            text = text.replace(name, value)
        return text

    @cached_property
    def _names(self) -> dict[str, str]:
        return names(self._status, self._objects("pod"))

    def _objects(self, kind: str) -> dict[str, str]:
        """Of the game, by name; a pod's address."""
        sections = get_objects(self._lab_dir, [{"kind": kind}], NAMESPACE)["sections"]
        found = [each for section in sections for each in section["objects"]]
        return {each["metadata"]["name"]: each.get("status", {}).get("podIP", "") for each in found}

    def _apply(self, text: str) -> None:
        documents = [("the game", text)]
        ask(self._lab_dir, "apply", documents=documents, namespace=NAMESPACE, validate="strict")

    def _is_answered(self, wanted: Connection | Agent) -> bool:
        if isinstance(wanted, Agent):
            status = msgspec.convert(ask(self._lab_dir, "status"), LabStatus)
            return any(each.name == wanted.node and each.peers is not None for each in status.machines)
        if wanted.size is not None:
            address = self._objects("pod").get(wanted.target.rpartition("/")[2])
            return bool(address) and self._ping(wanted.source, str(address), wanted.size)
        answer = self._ask_probe(wanted)
        return bool(answer["result"] == "allowed")

    def _ask_probe(self, wanted: Connection) -> dict[str, Any]:
        return ask(
            self._lab_dir,
            "probe",
            source=wanted.source,
            target=wanted.target,
            port=wanted.port,
            namespace=NAMESPACE,
            version=None,
            timeout_seconds=_PROBE,
        )

    def _ping(self, source: str, address: str, size: int) -> bool:
        target = msgspec.convert(ask(self._lab_dir, "exec_target", target=source, namespace=NAMESPACE), ExecTarget)
        command = ["sh", "-c", f"ping -n -q -c 1 -W 1 -s {size - 28} {address} >/dev/null 2>&1"]
        return self._inside(target, command) == 0

    def _run(self, lines: Sequence[Line]) -> None:
        for line in lines:
            target = ExecTarget(str(NETNS / line.machine), line.machine)
            self._inside(target, ["sh", "-c", f"({self.spelled(line.text)}) 2>/dev/null"])

    def _inside(self, target: ExecTarget, command: Sequence[str]) -> int:
        """In a child: who enters stays inside."""
        child = os.fork()
        if child == 0:
            code = 126
            try:
                code = run_inside(self._lab_dir, target, command)
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
