"""What was seen of one probe in all places, as values. Made by `observer.py`; `assembly.py` puts it in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.kernel.packet_tap import Sighting
from percale.kernel.probe_packet import Header, Probe
from percale.kernel.rtnl.path_lookup import DeviceFacts, PathLookup
from percale.model.addresses import IPAddress
from percale.render.nft.objects import TableFamily
from percale.render.objects import OWNER

PlaceKind: TypeAlias = Literal["pod", "node", "host", "router"]

OWN_TABLES = frozenset((OWNER, f"{OWNER}-services"))


class Step(Struct, frozen=True):
    """A rule that matched, or a base chain's policy. `packet` tells packets of one namespace apart.

    `header`, `input` and `output` come with the first step of each base chain.
    """

    packet: int
    family: TableFamily
    table: str
    chain: str
    verdict: str
    is_policy: bool
    handle: int
    comment: str = ""
    text: str | None = None
    """A foreign rule as nft lists it, where it dropped the packet."""
    header: Header | None = None
    input: str | None = None
    output: str | None = None

    @property
    def is_ours(self) -> bool:
        return self.table in OWN_TABLES

    @property
    def drops(self) -> bool:
        """A reject reads as a drop."""
        return self.verdict == "drop"


class Observation(Struct, frozen=True):
    """All that a place saw."""

    place: str
    kind: PlaceKind
    sightings: tuple[Sighting, ...]
    steps: tuple[Step, ...]
    paths: tuple[PathLookup, ...]
    devices: tuple[DeviceFacts, ...]
    counted: dict[str, int]
    """Counters of losses that grew meanwhile, by so much."""
    forwards: bool = True
    """It may forward packets of the probe's family."""
    lost_messages: bool = False


class Evidence(Struct, frozen=True):
    """One probe. `sent`: nanoseconds since the epoch. `refusal`: why the kernel did not send it."""

    probe: Probe
    destination: IPAddress
    """As FROM asks for it: before any DNAT."""
    start: str
    """The place where it was sent."""
    source_port: int
    sent: int
    refusal: str | None
    observations: tuple[Observation, ...]
    names: Mapping[str, str] = {}
    """Of pods, nodes and hosts, by address."""

    def of(self, place: str) -> Observation:
        """What this place saw."""
        return next(each for each in self.observations if each.place == place)

    def sightings(self) -> list[tuple[str, Sighting]]:
        """Of all places by time."""
        found = ((each.place, seen) for each in self.observations for seen in each.sightings)
        return sorted(found, key=lambda each: each[1].time)
