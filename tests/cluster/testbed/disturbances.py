"""What happens to a testbed while traffic runs through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from threading import Event, Thread

from tests.cluster.testbed import agents
from tests.cluster.testbed.control_plane import kubectl, restarted, serves
from tests.cluster.testbed.layout import Layout
from tests.cluster.testbed.processes import in_holder, run
from tests.cluster.testbed.traffic import Traffic
from tests.waiting import until

_KILL_EVERY = 5.0
_QUIET, _AWAY = 10.0, 60.0
_DOWN, _UP, _FLAPS = 3.0, 12.0, 6


@contextmanager
def killed(layout: Layout, traffic: Traffic) -> Iterator[None]:
    """The agents, one node's after the other's."""
    with agents.killed_in_turn(layout, _KILL_EVERY) as gone:
        yield
    traffic.disturbances = len(gone)


@contextmanager
def rolling(layout: Layout, traffic: Traffic) -> Iterator[None]:
    """Updates of the DaemonSet: one ends, the next begins."""
    ended = Event()

    def update() -> None:
        while not ended.is_set():
            kubectl(layout, "rollout", "restart", "-n=percale", "daemonset/percale")
            kubectl(layout, "rollout", "status", "-n=percale", "daemonset/percale", "--timeout=300s", seconds=310)
            traffic.disturbances += 1

    thread = Thread(target=update)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def no_api_server(layout: Layout, traffic: Traffic) -> Iterator[None]:
    """It is killed, and back after a minute."""
    time.sleep(_QUIET)
    with restarted(layout, "kube-apiserver"):
        traffic.disturbances += 1
        time.sleep(_AWAY)
    until(lambda: serves(layout), "the API server is ready again", patience=_AWAY)
    time.sleep(_QUIET)
    yield


@contextmanager
def etcd(layout: Layout, traffic: Traffic) -> Iterator[None]:
    """It is killed and started again."""
    for _ in range(3):
        time.sleep(_QUIET)
        with restarted(layout, "etcd"):
            traffic.disturbances += 1
            time.sleep(1)
        until(lambda: serves(layout), "the API server is ready again", patience=_AWAY)
    time.sleep(_QUIET)
    yield


@contextmanager
def flapping(layout: Layout, traffic: Traffic) -> Iterator[None]:
    """The last node's link."""
    name = layout.nodes[-1].name
    for _ in range(_FLAPS):
        begin = time.monotonic()
        run([*in_holder(layout), "ip", "link", "set", f"to-{name}", "down"])
        time.sleep(_DOWN)
        run([*in_holder(layout), "ip", "link", "set", f"to-{name}", "up"])
        traffic.excuse(name, begin, time.monotonic())
        traffic.disturbances += 1
        time.sleep(_UP)
    yield


DISTURBANCES: Mapping[str, Callable[[Layout, Traffic], AbstractContextManager[None]]] = {
    "killed": killed,
    "rolling": rolling,
    "no-api-server": no_api_server,
    "etcd": etcd,
    "flapping": flapping,
}
