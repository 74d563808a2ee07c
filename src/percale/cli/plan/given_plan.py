"""The plan that a command is given: `--plan FILE`. Used by the commands here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import Any, NamedTuple, TypeVar

import click

from percale.cli.findings import Finding
from percale.errors import BadManifest
from percale.ipam.address_plan.check import PlanFinding, errors_of_names
from percale.ipam.address_plan.plan import Plan
from percale.model.address_plan import AddressPlan
from percale.model.addresses import IPNetwork
from percale.model.kinds import kinds_of
from percale.model.manifest.decode import ManifestEntry
from percale.model.manifest.diagnostics import combined
from percale.model.manifest.files import read
from percale.model.manifest.load import load_manifests
from percale.model.manifest.written_objects import WrittenObjects

F = TypeVar("F", bound=Callable[..., Any])


class GivenPlan(NamedTuple):
    """With the places of its fields."""

    plan: Plan
    entry: ManifestEntry
    written: WrittenObjects

    def placed(self, findings: Iterable[PlanFinding]) -> list[Finding]:
        """With their lines, in their order."""
        source = self.entry.source
        found = [
            Finding(
                source.file,
                self.written.line(source, ("spec", *each.path)),
                each.severity,
                each.code,
                None,
                each.message,
                each.hint,
            )
            for each in findings
        ]
        return sorted(found, key=lambda each: each.line)


def plan_option(command: F) -> F:
    """`--plan FILE`."""
    return click.option(
        "--plan", "file", metavar="FILE", envvar="PERCALE_PLAN", required=True, help="The plan (or $PERCALE_PLAN)."
    )(command)


def read_plan(file: str) -> GivenPlan:
    """The AddressPlan of this file, which may have other documents. Raises BadManifest."""
    files = read([file])
    loaded = load_manifests(files.documents, kinds_of(AddressPlan), unreadable=files.faults).valid()
    plans = [each for each in loaded.entries if isinstance(each.object, AddressPlan)]
    if len(plans) != 1:
        what = (
            f"{len(plans)} AddressPlans are in it" if plans else f"no AddressPlan of {AddressPlan.API_VERSION} is in it"
        )
        raise BadManifest(what, where=file, hint="a plan is one document with `kind: AddressPlan`")
    [entry] = plans
    assert isinstance(entry.object, AddressPlan)
    return GivenPlan(Plan(entry.object.spec), entry, loaded.written)


def address_or_network(text: str, option: str | None = None) -> IPNetwork:
    """An address as a network of its own. `option` has it, None: an argument. Raises click's BadParameter."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no address and no network", param_hint=option) from None


def usable_plan(file: str) -> Plan:
    """The same without its places. Raises BadManifest for names that mean nothing."""
    given = read_plan(file)
    if errors := given.placed(errors_of_names(given.plan)):
        raise combined([BadManifest(each.message, where=f"{each.file}:{each.line}", hint=each.hint) for each in errors])
    return given.plan
