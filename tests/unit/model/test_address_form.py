"""Addresses whose digits or bits mean something."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from percale.errors import BadInput
from percale.model.address_form import AddressForm, network_form, parse_bits, parse_form
from percale.model.addresses import IPAddress


def read(form: AddressForm, address: str) -> dict[str, int] | None:
    found = form.read(ip_address(address))
    return None if found is None else dict(found)


def addresses(form: AddressForm) -> list[IPAddress]:
    return [first for first, _ in form.blocks(len(form.fields), {})]


@pytest.mark.parametrize(
    ("form", "address", "values"),
    [
        ("10.{room}.{env}.{host}", "10.4.7.21", {"room": 4, "env": 7, "host": 21}),
        ("10.4{env:1}.{host}.0", "10.47.9.0", {"env": 7, "host": 9}),
        ("10.4{env:1}.{host}.0", "10.50.9.0", None),
        ("10.4{env:1}.{host}.0", "10.47.9.1", None),
        ("10.4{env:1}.{host}.0", "9.47.9.0", None),
        ("10.{room:0-1}{env:2}.0.{host}", "10.142.0.3", {"room": 1, "env": 42, "host": 3}),
        ("10.{room:0-1}{env:2}.0.{host}", "10.200.0.3", None),
        ("10.{room:4-5}.{env}.{host}", "10.6.7.1", None),
        ("fd00:{room}:{env}::{host}", "fd00:4:7::15", {"room": 4, "env": 7, "host": 0x15}),
        ("fd00:{room}:{env}::{host}", "fd00:4:7:1::15", None),
        ("fd{room:2}::{host}", "fd10::1", {"room": 0x10, "host": 1}),
        ("{room}::", "4::", {"room": 4}),
        ("10.{room}.{env}.{host}", "fd00::1", None),
    ],
)
def test_a_form_is_read_as_it_is_written(form: str, address: str, values: dict[str, int] | None) -> None:
    assert read(parse_form(form), address) == values


def test_bits_are_read_from_the_left() -> None:
    form = parse_bits("172.16.0.0/12 room:4 env:4 node:4 pod:8")
    assert read(form, "172.20.115.9") == {"room": 4, "env": 7, "node": 3, "pod": 9}
    assert read(form, "172.32.0.0") is None
    wide = parse_bits("fd00::/16 room:16 node:32 pod:64")
    assert read(wide, "fd00:4::7:0:0:0:9") == {"room": 4, "node": 7, "pod": 9}
    assert [str(each) for each in wide.networks({"room": 4})] == ["fd00:4::/32"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("10.{a}{b}.1.2", "how many digits"),
        ("10.{a:3}.1.2", "part 2 goes up to 999, above 255"),
        ("fd{a:3}::", "part 1 goes up to fdfff, above ffff"),
        ("10.1.2", "not the 4 parts"),
        ("10..{x}.1", "not the 4 parts"),
        ("fd00::{x}::1", "not the 8 parts"),
        ("1:2:3:4:5:6:7:8:{x}", "not the 8 parts"),
        ("10.{x}.{x}.1", "the field x twice"),
        ("{x}", "is no address"),
        ("", "is no address"),
        ("10.{X}.1.1", "is no field"),
        ("10.{}.1.1", "is no field"),
        ("10.{x:0}.1.1", "1 to 4 digits"),
        ("10.{x:9-3}.1.1", "first value is above"),
    ],
)
def test_what_is_no_form(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_form(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not a network"),
        ("172.16.0.0 a:20", "not a network"),
        ("172.16.0.1/12 a:20", "the network is 172.16.0.0/12"),
        ("172.16.0.0/12 a:4", "have 4 bits, and 172.16.0.0/12 leaves 20"),
        ("172.16.0.0/12 a:0 b:20", '"a:0" is no field'),
        ("172.16.0.0/12 a:10 a:10", "the field a twice"),
    ],
)
def test_what_is_no_division_of_bits(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_bits(text)


def test_decimal_digits_are_no_prefix() -> None:
    tens = parse_form("10.4{env:1}.{a}.{host}")
    assert [str(each) for each in tens.networks({})] == ["10.40.0.0/13", "10.48.0.0/15"]
    assert [str(each) for each in tens.networks({"env": 7})] == ["10.47.0.0/16"]
    with pytest.raises(BadInput, match="env 10 does not fit: here it is 0 to 9"):
        tens.networks({"env": 10})
    with pytest.raises(BadInput, match="too many separate networks"):
        parse_form("10.{room}.{env}.5").networks({})


_PARTS = st.sampled_from(["1", "{%s:0-3}", "{%s:2-5}", "{%s:1}", "2{%s:1}", "{%s:1-2}4", "{%s:0-1}{%s:1}"])


@st.composite
def _forms(draw: st.DrawFn) -> AddressForm:
    """With at most a thousand addresses."""
    names, chosen = iter("abcdefgh"), draw(st.lists(_PARTS, min_size=3, max_size=3))
    parts = [part % tuple(next(names) for _ in range(part.count("%s"))) for part in chosen]
    form = parse_form(".".join(["10", *parts]))
    assume(len(addresses(form)) <= 1000)
    return form


@given(_forms())
def test_addresses_are_those_that_are_read(form: AddressForm) -> None:
    listed = addresses(form)
    assert listed == sorted(listed)
    assert all(form.read(each) is not None for each in listed)
    assert set(map(int, listed)) == set(_numbers(form))
    inside = [each for network in form.networks({}) for each in network]
    assert inside == listed


def _numbers(form: AddressForm) -> Iterator[int]:
    for groups in product(*form.groups):
        yield int.from_bytes(bytes(groups))


@given(_forms(), _forms())
def test_common_addresses_are_those_of_both(one: AddressForm, other: AddressForm) -> None:
    both = set(addresses(one)) & set(addresses(other))
    assert one.common_address(other) == other.common_address(one) == min(both, default=None)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "172.16.0.0/12", "10.1.2.4/30", "10.1.2.3/32", "fd00::/20", "::/0"])
def test_a_network_is_a_form(text: str) -> None:
    network = ip_network(text)
    form = network_form(network)
    assert form.networks({}) == [network]
    for inside in (network[0], network[-1]):
        assert form.common_address(network_form(ip_network(inside))) == inside
    if network.prefixlen:
        assert form.common_address(network_form(ip_network(network[0] - 1))) is None
