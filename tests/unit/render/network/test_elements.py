"""Elements of the node's tables: how their keys are packed, and what a change of a source makes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.kernel.nftables import bulk_elements
from percale.render.network.base_chains import network_tables
from percale.render.network.elements import DeclaredElements, Element, Part, pack
from percale.render.nft.objects import ElementBatch, SetSpec, Transaction
from percale.render.nft.table_state import TableState

TABLES = {str(table.name.family): table for table in network_tables()}
SETS = {family: {spec.name: spec for spec in table.sets} for family, table in TABLES.items()}
DEVICE, MAC = "pcl0123456789a", "02:00:00:00:00:0a"
V4, V6 = ip_address("10.244.1.9"), ip_address("fd00:1::9")
PADDED = DEVICE.encode() + b"\0\0"

PACKED = [
    (Element("ip", "sources", (DEVICE, V4)), PADDED + V4.packed),
    (Element("ip", "quoted", (DEVICE, int(V4))), PADDED + V4.packed),
    (Element("ip6", "sources", (DEVICE, V6)), PADDED + V6.packed),
    (Element("ip6", "quoted", (DEVICE, int(V6))), PADDED + V6.packed),
    (Element("bridge", "sources", (DEVICE, MAC, V4)), PADDED + b"\2\0\0\0\0\x0a\0\0" + V4.packed),
    (Element("bridge", "neighbours", (DEVICE, MAC, int(V6))), PADDED + b"\2\0\0\0\0\x0a\0\0" + V6.packed),
    (Element("ip", "tunnels", (8472,)), b"\x21\x18\0\0"),
    (Element("ip", "peers", (V4,)), V4.packed),
    (Element("ip", "pods", (ip_network("10.244.0.0/16"),)), b"\x0a\xf4\0\0\x0a\xf4\xff\xff"),
    (Element("ip", "pods", (ip_network("0.0.0.0/0"),)), b"\0\0\0\0\xff\xff\xff\xff"),
    (Element("ip6", "localpods", (ip_network("fd00:1::9/128"),)), V6.packed * 2),
]


@pytest.mark.parametrize(("element", "packed"), PACKED, ids=lambda value: getattr(value, "set", ""))
def test_the_key_of_an_element_there_and_back(element: Element, packed: bytes) -> None:
    spec = SETS[element.family][element.set]
    assert pack(spec, element.match) == packed
    lists = bulk_elements.lists(spec, ElementBatch(spec.name, packed), data=True)
    assert bulk_elements.read(spec, lists) == {packed: None}


@pytest.mark.parametrize(
    "match",
    [(), (DEVICE,), (V4, DEVICE), (DEVICE, V6), ("x" * 20, V4), (DEVICE, V4, V4), (DEVICE, ip_network("10.0.0.0/8"))],
)
def test_an_element_that_does_not_fit_its_set_says_so(match: tuple[Part, ...]) -> None:
    with pytest.raises(ValueError, match=r"set sources is of type ifname \. ipv4_addr"):
        pack(SETS["ip"]["sources"], match)


@pytest.mark.parametrize("match", [(DEVICE, 1 << 32), (DEVICE, -1), (DEVICE, V4)])
def test_bits_that_do_not_fit(match: tuple[Part, ...]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        pack(SETS["ip"]["quoted"], match)


SPEC = SetSpec("peers", ("ipv4_addr",))
ADDRESSES = [ip_address(f"192.168.0.{number}") for number in range(4)]
WORLDS = st.dictionaries(st.sampled_from("abc"), st.sets(st.sampled_from(ADDRESSES)))


@given(st.lists(st.tuples(WORLDS, st.booleans()), min_size=1, max_size=6))
def test_from_any_state_to_any_other(steps: list[tuple[dict[str, set[Part]], bool]]) -> None:
    """Whatever is declared in between and whenever it is taken, the table holds what the sources declare."""
    declared = DeclaredElements((SPEC,))
    bare = state = TableState.bare((SPEC,))
    for world, taken in steps:
        for source in "abc":
            declared.declare(source, (Element("ip", "peers", (each,)) for each in world.get(source, ())))
        if taken:
            state = state.apply(declared.changes())
            wanted = {address.packed for each in world.values() for address in each}  # type: ignore[union-attr]
            assert state.sets["peers"].elements.keys() == wanted
            assert bare.apply(declared.snapshot()) == state
            assert not declared.changes()


def test_who_declares_what() -> None:
    declared = DeclaredElements((SPEC,))
    element = Element("ip", "peers", (V4,))
    assert declared.declare("peer/a", (element,))
    assert not declared.declare("peer/a", (element, element))
    assert declared.declare("peer/b", (element,))
    assert declared.changes() == Transaction(put=(ElementBatch("peers", V4.packed),))
    assert declared.declare("peer/a", ())
    assert declared.changes() == Transaction()
    both = ElementBatch("peers", ADDRESSES[0].packed + V4.packed)
    assert (declared.holds("peer/a", both), declared.holds("peer/b", both)) == (False, True)


def test_a_bad_element_leaves_its_source_as_it_was() -> None:
    declared = DeclaredElements((SPEC,))
    declared.declare("peer/a", (Element("ip", "peers", (V4,)),))
    with pytest.raises(ValueError, match="set peers"):
        declared.declare("peer/a", (Element("ip", "peers", (V6,)),))
    assert declared.changes() == Transaction(put=(ElementBatch("peers", V4.packed),))
