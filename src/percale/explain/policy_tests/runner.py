"""Cases tried against the evaluator, and what came of it. Called by `percale policy test` and `lab/policy_tests/runner.py`.

The states of a sequence are replayed as updates of one evaluator: only what differs is put and removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from msgspec import Struct

from percale.explain.policy_tests.cases import Case, Probe
from percale.explain.why.connection import Answer, answer
from percale.explain.why.text import to_line
from percale.model.addresses import packed
from percale.model.meta import Object, ObjectKey
from percale.policy.evaluator import Evaluator
from percale.policy.verdict import Flow

Identity: TypeAlias = tuple[type[Object], ObjectKey]


class Trial(Struct, frozen=True):
    """A probe and what came of it. `allowed` None: neither; the packets did not find a way, which is wrong in any case."""

    case: Case
    probe: Probe
    allowed: bool | None
    reason: str
    apart: str | None = None
    """Why it was tried by the evaluator, where others were tried with real packets."""

    @property
    def wrong(self) -> bool:
        return self.allowed != self.probe.allowed

    @property
    def found(self) -> str:
        return word(self.allowed)

    @property
    def where(self) -> str:
        return f"{self.case.source.file}:{self.probe.line}"

    def __str__(self) -> str:
        doubt = f" (doubt: {self.probe.doubt})" if self.probe.doubt else ""
        expected = f"expected {word(self.probe.allowed)}{doubt}"
        return f"{self.where}: {self.case.name}: {self.probe}: {expected}, {self.found}: {self.reason}"


def word(allowed: bool | None) -> str:
    """As people say it."""
    return "unreachable" if allowed is None else "allowed" if allowed else "denied"


def try_offline(sequence: Sequence[Case]) -> Iterator[Trial]:
    """Every probe of every state, in their order."""
    evaluator = Evaluator()
    known: dict[Identity, Object] = {}
    for case in sequence:
        known = _replay(evaluator, known, case.objects)
        for probe in case.probes:
            yield try_probe(evaluator, case, probe)


def try_probe(evaluator: Evaluator, case: Case, probe: Probe) -> Trial:
    """Each family that both ends have must be as expected; the first that is not is reported."""
    found: list[Answer] = []
    for one, other in pairs(case, probe):
        source, destination = evaluator.flow_end(packed(one)), evaluator.flow_end(packed(other))
        found.append(answer(evaluator, Flow(source, destination, probe.protocol, probe.port)))
    decisive = next((each for each in found if each.verdict.allowed != probe.allowed), found[0])
    return Trial(case, probe, decisive.verdict.allowed, to_line(decisive, case))


def pairs(case: Case, probe: Probe) -> Iterator[tuple[str, str]]:
    """The addresses of a probe's ends, for each family that both have: there is one."""
    for one in case.addresses(probe.source):
        for other in case.addresses(probe.destination):
            if (":" in one) == (":" in other):
                yield one, other


def changes(
    known: dict[Identity, Object], objects: Iterable[Object]
) -> tuple[list[Object], list[Object], list[Object]]:
    """From one state to the next: what goes, what is new or different, and all of it."""
    wanted = {(type(each), each.key): each for each in objects}
    gone = [each for identity, each in known.items() if identity not in wanted]
    fresh = [each for identity, each in wanted.items() if known.get(identity) != each]
    return gone, fresh, list(wanted.values())


def _replay(evaluator: Evaluator, known: dict[Identity, Object], objects: Iterable[Object]) -> dict[Identity, Object]:
    gone, fresh, everything = changes(known, objects)
    for each in gone:
        evaluator.remove(type(each), each.key)
    for each in fresh:
        evaluator.put(each)
    return {(type(each), each.key): each for each in everything}
