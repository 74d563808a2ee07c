"""IPPools, IPReservations and AddressBlocks that cannot be used are refused, with the field."""

from __future__ import annotations

from typing import Any

import pytest

from percale.model.bgp import without_effect
from percale.model.ip_pool import AddressBlock, IPPool, IPReservation
from percale.model.manifest.decoders import converted
from percale.model.meta import Object
from percale.model.validation.validators import field_errors


@pytest.mark.parametrize(
    ("kind", "spec", "error"),
    [
        (IPPool, {"cidr": "10.0.0.1/24"}, "spec.cidr: Invalid value"),
        (IPPool, {"cidr": "10.0.0.0"}, "spec.cidr: Invalid value"),
        (IPPool, {"cidr": "10.0.0.0/28"}, "spec.cidr: Invalid value"),
        (IPPool, {"cidr": "10.0.0.0/24", "blockSize": 19}, "spec.blockSize: Invalid value: 19: must be from 20 to 32"),
        (IPPool, {"cidr": "10.0.0.0/24", "blockSize": 23}, "spec.blockSize: Invalid value: 23: a block of /23 does"),
        (IPPool, {"cidr": "fd00::/112", "blockSize": 26}, "spec.blockSize: Invalid value: 26: must be from 116 to 128"),
        (IPPool, {"cidr": "10.0.0.0/24", "ipipMode": "Always", "vxlanMode": "Always"}, "spec.vxlanMode: Forbidden"),
        (IPPool, {"cidr": "fd00::/112", "ipipMode": "Always"}, "spec.ipipMode: Forbidden"),
        (IPPool, {"cidr": "10.0.0.0/24", "nodeSelector": "rack =="}, "spec.nodeSelector: Invalid value"),
        (IPPool, {"cidr": "10.0.0.0/24", "namespaceSelector": "("}, "spec.namespaceSelector: Invalid value"),
        (IPReservation, {"reservedCIDRs": ["10.0.0.0/24", "x"]}, "spec.reservedCIDRs[1]: Invalid value"),
        (AddressBlock, {"cidr": "10.0.0.0/28", "node": "n"}, "metadata.name: Invalid value"),
        (AddressBlock, {"cidr": "10.0.0.1/28", "node": "n"}, "spec.cidr: Invalid value"),
    ],
)
def test_what_is_refused(kind: type[Object], spec: dict[str, Any], error: str) -> None:
    document = {"apiVersion": kind.API_VERSION, "kind": kind.KIND, "metadata": {"name": "x"}, "spec": spec}
    assert any(str(each).startswith(error) for each in field_errors(kind, document)), field_errors(kind, document)


@pytest.mark.parametrize(
    ("kind", "name", "spec"),
    [
        (IPPool, "p", {"cidr": "10.0.0.0/16", "ipipMode": "Never", "vxlanMode": "CrossSubnet", "natOutgoing": True}),
        (IPPool, "p", {"cidr": "10.0.0.0/32", "blockSize": 32, "nodeSelector": "all()"}),
        (IPPool, "p", {"cidr": "fd00::/112", "blockSize": 122}),
        (IPReservation, "r", {"reservedCIDRs": ["10.0.0.0/32", "fd00::/122"]}),
        (AddressBlock, "10.0.0.0-28", {"cidr": "10.0.0.0/28", "node": "n"}),
        (AddressBlock, "fd00---122", {"cidr": "fd00::/122", "node": "n"}),
    ],
)
def test_what_is_valid(kind: type[Object], name: str, spec: dict[str, Any]) -> None:
    document = {"apiVersion": kind.API_VERSION, "kind": kind.KIND, "metadata": {"name": name}, "spec": spec}
    assert field_errors(kind, document) == ()
    assert converted(document, kind).metadata.name == name


def test_fields_without_effect_are_named() -> None:
    spec = {"cidr": "10.0.0.0/16", "disableBGPExport": True, "ipip": {"enabled": True}}
    pool = converted({"metadata": {"name": "p"}, "spec": spec}, IPPool)
    assert list(without_effect(pool.spec)) == ["disableBGPExport", "ipip"]
