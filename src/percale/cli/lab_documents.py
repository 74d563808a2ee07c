"""The networks that a Lab document among manifests says. Called by cli/policy/check.py and cli/service/check.py."""

from __future__ import annotations

from collections.abc import Iterable

from percale.lab.spec.topology import Lab
from percale.model.addresses import IPNetwork, is_network, parse_network
from percale.model.manifest.decode import ManifestEntry
from percale.model.netconf import network_config


def pod_networks_of_labs(found: Iterable[ManifestEntry]) -> tuple[IPNetwork, ...]:
    """Raises BadNetworkConfig."""
    return tuple(
        network
        for each in found
        if isinstance(each.object, Lab) and each.object.spec.network is not None
        for network in network_config(each.object.spec.network, f"{each.source} spec.network").networks
    )


def service_networks_of_labs(found: Iterable[ManifestEntry]) -> tuple[IPNetwork, ...]:
    """What is no network is left out: `lab up` refuses it."""
    texts = (each.object.spec.serviceCIDR for each in found if isinstance(each.object, Lab))
    words = [word.strip() for text in texts if text for word in text.split(",")]
    return tuple(map(parse_network, filter(is_network, words)))
