"""`kind: AddressPlan`: addresses that mean something, as people write them. docs/address-plan.md is the schema."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import msgspec

from percale.model.address_form import AddressForm, parse_bits, parse_form
from percale.model.meta import Object, ObjectMeta, Part

NODES, PODS, SERVICES = "nodes", "pods", "services"
"""Ranges whose meaning is known; any other is only named."""

NODE_LABEL = "node label "
"""What a `bind` begins with; the key of the label follows."""


class PlannedRange(Part, frozen=True, kw_only=True, dict=True, gc=True):
    """What a range is for, and its addresses in one of two ways."""

    for_: str = msgspec.field(name="for")
    form: str | None = None
    bits: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, which the decoder turns into an error with the range's path."""
        if (self.form is None) == (self.bits is None):
            raise ValueError("expected `form` or `bits`")
        _ = self.addresses

    @cached_property
    def addresses(self) -> AddressForm:
        return parse_form(self.form) if self.form is not None else parse_bits(self.bits or "")


class AddressPlanSpec(Part, frozen=True, kw_only=True, dict=True, gc=True):
    """`names` of values by field; `bind`: the node label that has a field's name; `reserve`: networks of others."""

    ranges: tuple[PlannedRange, ...]
    names: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    bind: dict[str, str] = msgspec.field(default_factory=dict)
    reserve: tuple[str, ...] = ()

    @cached_property
    def named_values(self) -> Mapping[str, Mapping[int, str]]:
        """Names by field and value."""
        return {field: {int(value): name for value, name in named.items()} for field, named in self.names.items()}

    @cached_property
    def node_labels(self) -> Mapping[str, str]:
        """The label's key by field."""
        return {field: bound.removeprefix(NODE_LABEL) for field, bound in self.bind.items()}


class AddressPlan(Object, frozen=True, omit_defaults=True, kw_only=True):
    API_VERSION: ClassVar[str] = "percale.io/v1alpha1"
    KIND: ClassVar[str] = "AddressPlan"
    PLURAL: ClassVar[str] = "addressplans"
    NAMESPACED: ClassVar[bool] = False

    metadata: ObjectMeta = ObjectMeta(name="plan")
    spec: AddressPlanSpec
