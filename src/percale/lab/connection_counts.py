"""Counts a node's connections to each endpoint of a Service, from its conntrack table. Called by cli/service/show.py.

As in `watch`, the command's own process enters the lab's user namespace.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping

from percale.errors import LabError
from percale.explain.services.show import PortView
from percale.kernel.netlink.conntrack import DESTINATION_TRANSLATED, Conntrack
from percale.kernel.netns import NetnsThread
from percale.lab.api.client import ask
from percale.lab.process.nsenter import enter_user_namespace
from percale.lab.run_dir import LabDir, require_running
from percale.model.pod import PROTOCOLS
from percale.service.endpoint_selection import Record


def connections(lab_dir: LabDir, node: str, ports: Collection[PortView]) -> Mapping[tuple[str, Record], int]:
    """Connections through this Service, by protocol and endpoint. The process stays in the lab's user namespace.

    Raises LabError, NoSuchLab.
    """
    init = require_running(lab_dir)
    namespace = ask(lab_dir, "names")["nodes"].get(node)
    if namespace is None:
        raise LabError(f"there is no node {node} in the lab {lab_dir.name}")
    try:
        descriptor = os.open(f"/proc/{init}/root{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter_user_namespace(init)
            thread = NetnsThread(descriptor, name=f"count-{node}")
        finally:
            os.close(descriptor)
        try:
            return _counted(Conntrack(thread), ports)
        finally:
            thread.close()
    except OSError as error:
        raise LabError(f"cannot count the connections of {node}: {error.strerror or error}") from error


def _counted(table: Conntrack, ports: Collection[PortView]) -> Mapping[tuple[str, Record], int]:
    """Only connections whose original destination was a VIP of the Service; a node port has any address of the node."""
    asked = {(each.port.name.protocol, vip.address, vip.port) for each in ports for vip in each.port.vips}
    servers = {endpoint.record[:-2] for each in ports for endpoint in each.endpoints}
    found: Counter[tuple[str, Record]] = Counter()
    try:
        for flow in table.of(servers):
            protocol, port = PROTOCOLS.get(flow.original.protocol, ""), flow.original.destination_port
            is_asked = {(protocol, flow.original.destination, port), (protocol, b"", port)} & asked
            if flow.status & DESTINATION_TRANSLATED and is_asked:
                found[protocol, flow.server + flow.server_port.to_bytes(2)] += 1
    finally:
        table.close()
    return found
