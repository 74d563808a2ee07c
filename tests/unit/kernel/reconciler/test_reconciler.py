"""The reconciler when things fail: lost events, a socket that breaks, a defect, a kernel that cannot be read."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Sequence
from ipaddress import ip_interface
from typing import Any

import pytest
from tests.waiting import eventually

from percale.errors import KernelError
from percale.kernel.protocol import Change, Delete
from percale.kernel.reconciler import reconciler as reconciler_module
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.rtnl.fake import FakeKernel
from percale.render.link_kinds import Veth, VethPeer
from percale.render.objects import Address, Link, Route

ETH0 = Link("eth0", Veth(VethPeer("far0")))
ADDRESS = Address("eth0", ip_interface("192.168.1.1/24"))


async def test_after_lost_events_everything_is_read_again() -> None:
    kernel = FakeKernel()
    reconciler = Reconciler(kernel)
    await reconciler.start()
    reconciler.declare("node", (ETH0, ADDRESS))
    await reconciler.wait_applied("node")
    del kernel.objects[ADDRESS.key]
    kernel.lose_events()
    assert await eventually(lambda: ADDRESS.key in kernel.objects)
    await reconciler.stop()
    assert kernel.closed


async def test_a_broken_socket_is_a_problem_and_tried_again() -> None:
    class Breaking(FakeKernel):
        breaks = 2

        def apply(self, changes: Sequence[Change]) -> Sequence[OSError | None]:
            if self.breaks:
                self.breaks -= 1
                raise OSError(errno.ENOBUFS, "no buffer space")
            return super().apply(changes)

    kernel = Breaking()
    reconciler = Reconciler(kernel)
    await reconciler.start()
    reconciler.declare("node", (ETH0, ADDRESS))
    assert await eventually(lambda: ADDRESS.key in kernel.objects)
    await reconciler.wait_applied("node")
    assert reconciler.problems == {}
    await reconciler.stop()


async def test_each_batch_is_reported_with_its_duration_and_its_results() -> None:
    batches: list[tuple[float, Sequence[OSError | None]]] = []
    kernel = FakeKernel()
    kernel.refuse(ADDRESS.key)
    reconciler = Reconciler(kernel, on_batch=lambda *batch: batches.append(batch))
    await reconciler.start()
    reconciler.declare("node", (ETH0, ADDRESS))
    with pytest.raises(KernelError):
        await reconciler.wait_applied("node")
    seconds, (done, refused) = batches[0]
    assert seconds > 0
    assert done is None
    assert refused is not None
    await reconciler.stop()


async def test_a_defect_is_reported_and_does_not_end_the_reconciler(monkeypatch: pytest.MonkeyPatch) -> None:
    class Defective(FakeKernel):
        defects = 1

        def apply(self, changes: Sequence[Change]) -> Sequence[OSError | None]:
            if self.defects:
                self.defects -= 1
                raise ZeroDivisionError
            return super().apply(changes)

    monkeypatch.setattr(reconciler_module, "LONGEST_PAUSE", 0.05)
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    kernel = Defective()
    reconciler = Reconciler(kernel)
    await reconciler.start()
    reconciler.declare("node", (ETH0, ADDRESS))
    with pytest.raises(KernelError, match="ZeroDivisionError"):
        await reconciler.wait_applied("node")
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
    assert await eventually(lambda: ADDRESS.key in kernel.objects)
    await reconciler.stop()


async def test_a_kernel_that_cannot_be_read_is_an_error_at_the_start() -> None:
    class Unreadable(FakeKernel):
        def read(self) -> Any:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    reconciler = Reconciler(Unreadable())
    with pytest.raises(KernelError, match="reading the kernel's state: Operation not permitted"):
        await reconciler.start()
    await reconciler.stop()


async def test_waiters_are_cancelled_when_it_stops() -> None:
    applying, release = threading.Event(), threading.Event()

    class Slow(FakeKernel):
        def apply(self, changes: Sequence[Change]) -> Sequence[OSError | None]:
            applying.set()
            release.wait(30)
            return super().apply(changes)

    reconciler = Reconciler(Slow())
    await reconciler.start()
    reconciler.declare("node", (ETH0,))
    await eventually(applying.is_set)
    waiting = asyncio.ensure_future(reconciler.wait_applied("node"))
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(reconciler.stop())
    await asyncio.sleep(0)
    release.set()
    await stopping
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_one_missing_device_is_one_report_for_all_that_depend_on_it() -> None:
    told: list[tuple[str, str]] = []
    kernel = FakeKernel()
    reconciler = Reconciler(kernel, on_problem=lambda source, error: told.append((source, error.what)))
    await reconciler.start()
    reconciler.declare("a", [Route(ip_interface(f"10.0.{number}.0/24").network, "eth9") for number in range(20)])
    await reconciler.wait_idle()
    assert len(reconciler.problems) == 20
    assert await eventually(lambda: bool(told))
    assert told == [("a", "no device eth9 here")]
    await reconciler.stop()


async def test_a_refused_removal_is_reported_to_the_last_source() -> None:
    kernel = FakeKernel()
    reconciler = Reconciler(kernel)
    await reconciler.start()
    reconciler.declare("pod", (ETH0,))
    await reconciler.wait_applied("pod")
    kernel.refuse(ETH0.key, errno.EBUSY)
    reconciler.declare("pod", ())
    with pytest.raises(KernelError, match="ip link delete eth0"):
        await reconciler.wait_applied("pod")
    kernel.refusals.clear()
    assert await eventually(lambda: ETH0.key not in kernel.objects)
    await reconciler.wait_applied("pod")
    assert kernel.written[-1] == Delete(kernel.written[-1].object)
    await reconciler.stop()
