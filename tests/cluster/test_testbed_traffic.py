"""The traffic of `make conformance`: what it counts, and that its own end fails no request."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.cluster.testbed.traffic import TCP, UDP, Pod, Traffic
from tests.waiting import until

from percale.kernel.netns import NetnsThread, anonymous_namespace

HERE = "127.0.0.1"


@pytest.fixture
def pod() -> Iterator[Pod]:
    namespace = anonymous_namespace()
    thread = NetnsThread(namespace)
    os.close(namespace)
    thread.run(lambda: subprocess.run(["ip", "link", "set", "lo", "up"], check=True))
    yield Pod("n1", HERE, thread)
    thread.close()


def test_requests_and_arrived_packets_are_counted(pod: Pod) -> None:
    flow = Traffic()
    with closing(pod.open(socket.SOCK_STREAM)) as listener, closing(pod.open(socket.SOCK_DGRAM)) as datagrams:
        listener.bind((HERE, TCP))
        listener.listen()
        datagrams.bind((HERE, UDP))
        servers = [threading.Thread(target=flow.serve, args=(listener, datagrams))]
        clients = [
            threading.Thread(target=ask, args=(pod, HERE, "here", ["n1"])) for ask in (flow.ask, flow.keep_asking)
        ]
        clients.append(threading.Thread(target=flow.intrude, args=(pod, [HERE])))
        with flow.lasting(clients, servers):
            for thread in (*servers, *clients):
                thread.start()
            until(lambda: flow.requests >= 8 and flow.arrived >= 2, "requests are answered, and datagrams arrive")
    count = flow.count()
    assert (count.failed, count.notes) == (0, [])
    assert count.denied >= count.arrived
    assert count.has_failed, "a packet arrived that must not"


def test_a_request_without_a_server_is_a_failed_one(pod: Pod) -> None:
    flow = Traffic()
    client = threading.Thread(target=flow.ask, args=(pod, HERE, "pod to nobody", ["n1"]))
    with flow.lasting([client], []):
        client.start()
        until(lambda: flow.requests >= 2)
    assert flow.count().failed == flow.requests
    assert "pod to nobody: " in flow.count().notes[0]
