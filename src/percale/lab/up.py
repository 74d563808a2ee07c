"""`percale lab up`: checks what people wrote, bears the lab, and shows how it comes to life. Called by cli/lab/__init__.py.

files ─▶ manifests (all checked) ─▶ Blueprint ─▶ births.bear ─▶ init ─▶ controller
                                                                 │
table, line by line ◀──────────────────── progress events ◀──────┘
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from percale.controllers.admission import admit
from percale.errors import LabError, PercaleError
from percale.lab.api.client import ask
from percale.lab.controller import Blueprint, control
from percale.lab.machines.machines import AgentSettings
from percale.lab.process import init
from percale.lab.process.bootstrap import Newborn, Report, bear
from percale.lab.run_dir import LabPlace, NodePlace, claim, last_words, locate, take_down
from percale.lab.spec.input import read_input
from percale.lab.spec.service_networks import service_networks
from percale.lab.spec.topology import topology
from percale.lab.up_output import Say, Screen
from percale.model.manifest.files import read
from percale.model.netconf import network_config


def start(name: str, files: Sequence[str], patience: float, verbose: bool, say: Say) -> int:
    """Bring the lab up; 0 when all its pods are Ready. Raises BadInput, LabError: then nothing was started."""
    began = time.monotonic()
    place = locate(name)
    given = read_input(read(files))
    network = network_config(given.network)
    machines = topology(given.lab, network.networks, where="the lab's machines")
    services = service_networks(given.lab, machines, network.networks, where="the lab")
    objects = tuple(each.object for each in admit(given.found, (), services))
    blueprint = Blueprint(machines, AgentSettings(given.network, given.wiring, verbose, services), objects)
    lock = claim(place)

    def live(report: Report) -> None:
        init.live(place, lambda channel: control(place, blueprint, report, channel), _prepare_agents)

    screen = Screen(name, blueprint, network, say, began)
    try:
        newborn = bear(place, lock, live)
        screen.head(given.skipped)
        return _watch(place, newborn, screen, patience)
    except KeyboardInterrupt:
        take_down(place)
        say(f"interrupted: lab {name} ended")
        return 130


def _prepare_agents() -> init.Serve:
    """In init: import all that an agent needs, once for all of them."""
    from percale.agent import main as running  # noqa: PLC0415 -- while the controller lays the cables
    from percale.agent.config import loader as configuring  # noqa: PLC0415 -- likewise

    def serve(node: NodePlace) -> None:
        try:
            running.run(configuring.load(node.config, {}, {}))
        except PercaleError as error:
            raise SystemExit(_complaint(error)) from error

    return serve


def _complaint(error: PercaleError) -> int:
    """As `percale agent` says it; the exit code."""
    print(f"percale: {error}", file=sys.stderr)
    return 1


def _watch(place: LabPlace, newborn: Newborn, screen: Screen, patience: float) -> int:
    """Until all is ready, or patience (seconds) ends."""
    deadline = time.monotonic() + patience
    try:
        for event in newborn.events(lambda: deadline - time.monotonic()):
            if "error" in event:
                take_down(place)
                raise LabError(event["error"])
            if screen.show(event):
                return 1 if event["missing"] else 0
    except TimeoutError:
        screen.late(patience, ask(place, "missing")["missing"])
        return 1
    words = last_words(place.log)
    take_down(place)
    raise LabError("the lab ended while it started", hint=f"its last words: {words}")
