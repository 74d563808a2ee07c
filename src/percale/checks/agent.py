"""The agent of this node: whether it runs, answers, and is content; its store; and what it has left in files."""

from __future__ import annotations

from pathlib import Path

from percale.agent.network.peers import PEERS
from percale.checks.check import Outcome, bad, good, unknown
from percale.checks.commands import restart
from percale.checks.host import Host
from percale.cni.conflist import FILE
from percale.errors import PercaleError
from percale.model.subnet_lease import SubnetLease


def answers(host: Host) -> Outcome:
    """By HTTP, as `percale status` asks it."""
    if host.config.http is None:
        return unknown("the agent serves no HTTP (http: none)")
    if host.status is not None:
        if host.status.ready:
            return good(f"percale {host.status.version} of node {host.status.node}, pid {host.status.pid}, is ready")
        return bad(f"it is not ready: {'; '.join(host.status.waitingFor)}", restart(host))
    if host.agent:
        return bad(
            f"pid {host.agent} runs, and does not answer at {host.config.http}",
            f"kill -KILL {host.agent}",
            restart(host),
        )
    return bad(f"no agent runs, and nobody answers at {host.config.http}", restart(host))


def problems(host: Host) -> Outcome | None:
    """What it tells itself; peers have a check of their own."""
    if host.status is None:
        return None
    found = [each for each in host.status.problems if each.source != PEERS]
    if found:
        return bad("; ".join(f"{each.source}: {each.error}" for each in found), "percale status")
    return good("it tells of none")


def store(host: Host) -> Outcome:
    """Read from here, with the agent's rights."""
    try:
        leases = host.store.list(SubnetLease)
    except PercaleError as error:
        return bad(str(error), *([error.hint] if error.hint else []))
    return good(f"{host.config.store} has {len(leases)} leases")


def conflist(host: Host) -> Outcome | None:
    """The agent writes it once, when it can attach pods."""
    if host.status is None or not host.status.ready or host.backend_type is None:
        return None
    path = Path(host.config.cni.confDir) / FILE
    if not path.exists():
        return bad(f"there is no {path}", restart(host))
    return good(f"{path} is there")


def subnet_file(host: Host) -> Outcome | None:
    """Read by docker and others."""
    if host.status is None or not host.status.ready or host.backend_type is None or host.config.subnetFile is None:
        return None
    if not Path(host.config.subnetFile).exists():
        return bad(f"there is no {host.config.subnetFile}", restart(host))
    return good(f"{host.config.subnetFile} is there")
