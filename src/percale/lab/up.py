"""`percale lab up`: validates the input, starts the lab, shows its progress. Called by cli/lab/__init__.py.

files ─▶ spec/input (all checked) ─▶ LabConfig ─▶ spawn_lab ─▶ init ─▶ controller
                                                                           │
table, line by line ◀─────────────────────── progress events ◀─────────────┘
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from percale.controllers.admission import admit
from percale.errors import LabError, PercaleError
from percale.lab.api.client import ask
from percale.lab.controller import LabConfig, run_controller
from percale.lab.kubernetes.config import KubernetesConfig, agents_store
from percale.lab.kubernetes.forward import listen
from percale.lab.kubernetes.programs import find_programs
from percale.lab.machines.machines import AgentSettings
from percale.lab.process import init
from percale.lab.process.bootstrap import LabProcess, Report, spawn_lab
from percale.lab.run_dir import LabDir, NodeDir, acquire, locate, log_tail, take_down
from percale.lab.spec.input import read_input, without_foreign_nodes, without_owner, without_pools
from percale.lab.spec.service_networks import service_networks
from percale.lab.spec.topology import topology
from percale.lab.up_output import Echo, UpProgress
from percale.model.manifest.files import read
from percale.model.manifest.strictness import Validation
from percale.model.netconf import network_config

_TIMEOUT, _KUBERNETES_TIMEOUT = 30.0, 120.0
"""Seconds until all pods are Ready, unless the user says another time."""


def start(
    name: str,
    files: Sequence[str],
    timeout: float | None,
    verbose: bool,
    *,
    echo: Echo,
    validate: Validation = "strict",
    kubernetes: bool = False,
) -> int:
    """Bring the lab up; 0 when all its pods are Ready. Raises BadInput, LabError: then nothing was started."""
    started = time.monotonic()
    lab_dir = locate(name)
    given = read(files)
    lab_input = read_input(given.documents, validate, given.faults, api_server=kubernetes)
    network = network_config(lab_input.network)
    machines = topology(lab_input.lab, network.networks, where="the lab's machines")
    services = service_networks(lab_input.lab, machines, network.networks, where="the lab")
    found, foreign = without_foreign_nodes(lab_input.found, [node.name for node in machines.nodes])
    admitted = admit(found, (), services)
    objects = tuple(each.object for each in (found if kubernetes else admitted))  # the API server allocates
    programs = find_programs(os.environ) if kubernetes else None
    lock = acquire(lab_dir)
    store = agents_store(lab_dir) if kubernetes else f"files:{lab_dir.store}"
    settings = AgentSettings(lab_input.network, lab_input.wiring, verbose, services, store)
    control_plane = KubernetesConfig(programs, listen(), lock, network) if programs is not None else None
    config = LabConfig(machines, settings, objects, control_plane)

    def run_init(report: Report) -> None:
        if kubernetes:
            _leave_proxies()
        init.run(
            lab_dir,
            lambda channel: run_controller(lab_dir, config, report, channel),
            lambda: _import_agent(kubernetes=kubernetes),
        )

    progress = UpProgress(name, config, network, echo, started)
    try:
        process = spawn_lab(lab_dir, lock, run_init)
        progress.print_header([*lab_input.skipped, *foreign, *without_owner(found), *without_pools(found)])
        usual = _KUBERNETES_TIMEOUT if kubernetes else _TIMEOUT
        return _show_progress(lab_dir, process, progress, usual if timeout is None else timeout)
    except KeyboardInterrupt:
        take_down(lab_dir)
        echo(f"interrupted: lab {name} ended")
        return 130


def _leave_proxies() -> None:
    """The API server is in the lab, where no proxy is."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]


def _import_agent(*, kubernetes: bool) -> init.RunAgent:
    """In init: import all that an agent needs, once for all of them."""
    from percale.agent.config.loader import load  # noqa: PLC0415 -- while the controller builds the network
    from percale.agent.main import run  # noqa: PLC0415 -- likewise

    if kubernetes:
        import percale.store.kubernetes.store  # noqa: F401, PLC0415 -- likewise

    def run_agent(node: NodeDir) -> None:
        try:
            run(load(node.config, {}, {}))
        except PercaleError as error:
            print(f"percale: {error}", file=sys.stderr)
            raise SystemExit(1) from error

    return run_agent


def _show_progress(lab_dir: LabDir, process: LabProcess, progress: UpProgress, timeout: float) -> int:
    """Until all is ready, or for `timeout` seconds; the exit code."""
    deadline = time.monotonic() + timeout
    try:
        for event in process.events(lambda: deadline - time.monotonic()):
            if "error" in event:
                take_down(lab_dir)
                raise LabError(event["error"])
            if progress.show(event):
                return 1 if event["missing"] else 0
    except TimeoutError:
        progress.timed_out(timeout, ask(lab_dir, "missing")["missing"])
        return 1
    last_line = log_tail(lab_dir.log)
    take_down(lab_dir)
    raise LabError("the lab ended while it started", hint=f"the last line of its log: {last_line}")
