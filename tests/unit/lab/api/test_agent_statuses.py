"""Why a node's agent is not ready, by its status or its log."""

from __future__ import annotations

from pathlib import Path

from tests.silent import silent_problems

from percale.agent.metrics import Metrics
from percale.agent.reporter import StatusReporter
from percale.errors import KernelError, StoreUnavailable
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.rtnl.fake import FakeKernel
from percale.lab.api.agent_statuses import why_unready


async def test_an_agent_is_not_ready_for_what_it_waits_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("18:34:43.100 info  peer joined  node=b\nOSError: no room\n")
    problems = silent_problems()
    agent = StatusReporter("n1", Metrics(), problems, Reconciler(FakeKernel()))
    assert why_unready(agent.status(), log) == "the agent is starting"
    problems.raise_("kernel", KernelError("Unknown device type", errno=95))
    problems.raise_("store", StoreUnavailable("away"))
    assert why_unready(agent.status(), log) == "Unknown device type"
    agent.ready.set()
    assert why_unready(agent.status(), log) == why_unready(None, log) == "OSError: no room"
