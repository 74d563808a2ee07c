"""What happens to a testbed while traffic runs through it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from threading import Event
from typing import Any

from tests.cluster.testbed import agents
from tests.cluster.testbed.control_plane import kubectl, restarted, serves
from tests.cluster.testbed.layout import Layout, Node
from tests.cluster.testbed.processes import TestbedError, in_holder, in_node, run
from tests.cluster.testbed.traffic import Failure, Traffic
from tests.waiting import until

from percale.render.nft.objects import POLICY_TABLE
from percale.render.objects import OWNER, ROUTE_PROTOCOL

_KILL_EVERY = 5.0
_QUIET, _AWAY = 10.0, 60.0
_DOWN, _UP, _FLAPS = 3.0, 12.0, 6
_POLICIES = f"table {POLICY_TABLE}"
"""Whose absence is what lets packets pass (docs/policy.md)."""
_BACK = 10.0
"""Seconds until what was deleted must be there again."""


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

    with ThreadPoolExecutor(1) as pool:
        updating = pool.submit(update)
        try:
            yield
        finally:
            ended.set()
        updating.result()


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
        traffic.excuse(name, begin, time.monotonic(), f"{name}: its link is down")
        traffic.disturbances += 1
        time.sleep(_UP)
    yield


@contextmanager
def deleted(layout: Layout, traffic: Traffic) -> Iterator[None]:
    """What has Percale's mark, one after the other, on each node; the next once it is there again."""
    for node in layout.nodes:
        for what, delete in list(_ours(layout, node)):
            before, begin = traffic.arrived, time.monotonic()
            run([*in_node(layout, node.name), *delete])
            traffic.disturbances += 1
            while not _is_there(layout, node, what):
                if time.monotonic() - begin > _BACK:
                    traffic.failures.append(
                        Failure(begin, time.monotonic(), f"{node.name}: {what} is not restored", frozenset())
                    )
                    break
            end = time.monotonic()
            without = f"{node.name}: without {what} for {end - begin:.2f} s"
            traffic.excuse(node.name, begin, end, without)  # what is not there carries nothing
            if what == _POLICIES:
                traffic.excuse_packets(before, without)
    yield


def _is_there(layout: Layout, node: Node, what: str) -> bool:
    try:
        return what in dict(_ours(layout, node))
    except TestbedError:  # a device went while its entries were listed
        return False


def _ours(layout: Layout, node: Node) -> Iterator[tuple[str, list[str]]]:
    """What it is, and how it is deleted. Pods' own pairs of devices are their runtime's to delete."""

    def show(*command: str) -> Any:
        return json.loads(run([*in_node(layout, node.name), *command]) or "[]")

    for family in ("-4", "-6"):
        for route in show("ip", family, "-j", "route", "show", "table", "main", "proto", str(ROUTE_PROTOCOL)):
            kind = route.get("type", "unicast")
            through = ("dev", route["dev"]) if "dev" in route else ()
            yield f"{kind} route to {route['dst']}", ["ip", family, "route", "del", kind, route["dst"], *through]
        for entry in show("ip", family, "-j", "neigh", "show", "proto", str(ROUTE_PROTOCOL)):
            yield f"neighbour {entry['dst']}", ["ip", "neigh", "del", entry["dst"], "dev", entry["dev"]]
    for link in show("ip", "-j", "-d", "link"):
        if link.get("ifalias") != OWNER or link.get("linkinfo", {}).get("info_kind") == "veth":
            continue
        name = link["ifname"]
        for entry in show("bridge", "-j", "fdb", "show", "dev", name):
            if "dst" in entry:
                destination = ("dst", entry["dst"])
                yield f"FDB entry {entry['mac']}", ["bridge", "fdb", "del", entry["mac"], "dev", name, *destination]
        yield f"device {name}", ["ip", "link", "del", name]
    for line in run([*in_node(layout, node.name), "nft", "list", "tables"]).splitlines():
        _, family, name = line.split()
        if name.startswith(OWNER):
            yield line, ["nft", "delete", "table", family, name]


DISTURBANCES: Mapping[str, Callable[[Layout, Traffic], AbstractContextManager[None]]] = {
    "killed": killed,
    "rolling": rolling,
    "no-api-server": no_api_server,
    "etcd": etcd,
    "flapping": flapping,
    "deleted": deleted,
}
