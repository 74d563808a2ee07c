"""`percale policy test`: policy tests that people write, against the evaluator, or with real packets in a lab."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from percale.cli.left_out import print_left_out
from percale.cli.options import validate_option, validation
from percale.counted import counted

if TYPE_CHECKING:
    from percale.explain.policy_tests.cases import Case, Load
    from percale.model.manifest.load import LoadedManifests


@click.command()
@validate_option
@click.argument("files", metavar="FILE|DIR...", nargs=-1, required=True)
@click.option("--live", is_flag=True, help="With real packets, in labs.")
@click.option("-o", "--output", type=click.Choice(["text", "json", "junit"]), default="text", show_default=True)
def test(files: tuple[str, ...], live: bool, output: str) -> int:
    """Are policies what their tests say: who must reach whom, and who must not.

    A case is a small cluster, its policies, and probes with the verdict that is expected; docs/policy-tests.md is the schema.
    States of a sequence are replayed as updates of one cluster. Prints a line for each wrong probe, and why; exit code 1 when
    there is any.
    """
    from percale.cli.policy.test_report import report
    from percale.explain.policy_tests.cases import in_sequence
    from percale.explain.policy_tests.runner import try_offline

    cases = _cases(files)
    print_left_out(each for case in cases for each in case.warnings)
    sequences = in_sequence(cases)
    if live:
        from percale.lab.policy_tests.runner import try_live

        trials = try_live(sequences)
    else:
        trials = [trial for sequence in sequences for trial in try_offline(sequence)]
    click.echo(report(trials, output, live=live))
    return 1 if any(trial.wrong for trial in trials) else 0


def _cases(files: tuple[str, ...]) -> list[Case]:
    """All cases of all files; all errors are reported at once. A manifest among them that a case names is none."""
    from percale.errors import BadInput, BadManifest
    from percale.explain.policy_tests.cases import NotACase, decode_cases
    from percale.model.manifest.diagnostics import combined
    from percale.model.manifest.files import read
    from percale.suggestion import first_few

    found: list[Case] = []
    given = read(files, recursive=True)
    manifests = _Manifests()
    faults: list[tuple[str, BadManifest]] = [("", fault) for fault in given.faults]
    for file, text in given.documents:
        try:
            found += decode_cases(text.encode(), file, manifests.of(file), validation())
        except BadManifest as fault:
            faults += [(file, part) for part in fault.parts]
    wrong = [
        part for file, part in faults if not (isinstance(part, NotACase) and os.path.normpath(file) in manifests.files)
    ]
    if not found and all(isinstance(part, NotACase) for part in wrong):
        seen = first_few([name for name, _ in given.documents])
        there = [part.subject for part in wrong if isinstance(part, NotACase)]
        but = f", but {counted(len(there), 'manifest')}: {first_few(there)}" if there else ""
        raise BadInput(f"no case in {seen}{but}", hint="docs/policy-tests.md shows one")
    if wrong:
        raise combined(wrong)
    return found


class _Manifests:
    """What cases name, each seen from its case's own directory; it is read once, however many name it."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._loaded: dict[str, LoadedManifests] = {}

    def of(self, case: str) -> Load:
        return partial(self._load, case)

    def _load(self, case: str, path: str) -> LoadedManifests:
        from percale.model.manifest.diagnostics import combined
        from percale.model.manifest.files import read_named
        from percale.model.manifest.load import load_manifests

        place = os.path.normpath(Path(case).parent / path)
        if place not in self._loaded:
            given = read_named(place)
            self.files.update(given.names)
            if given.faults:
                raise combined(given.faults)
            self._loaded[place] = load_manifests(given.documents)
        return self._loaded[place]
