"""All faults, by number."""

from __future__ import annotations

from percale.lab.faults import network, objects

FAULTS = (
    network.FORWARD_DROP,
    network.TUNNEL_PORT,
    objects.POLICY_LABEL,
    objects.SELECTOR,
    network.HUNG_AGENT,
    network.FOREIGN_ROUTE,
    network.NARROW_PATH,
    network.NEIGHBOUR,
    network.REVERSE_PATH,
    objects.NO_DNS,
)
