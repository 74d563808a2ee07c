"""A change in parts: made one after the other they come to the same, whatever is refused harms nobody else."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.snapshots import snapshot

from percale.errors import KernelError
from percale.kernel.nftables.portions import apply_in_portions, merged, steps
from percale.render.nft.objects import INPUT_CHAIN, Chain, ElementBatch, Rule, SetSpec, Transaction, Verdict
from percale.render.nft.table_state import TableState, diff
from percale.render.policy.base_chains import CLASS_MAPS, SET_SPECS
from percale.render.service.base_chains import SET_SPECS as SERVICE_SET_SPECS

ONE, TWO, THREE = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
SEEDS = st.integers(0, 10_000)


def specs_of(state: TableState) -> dict[str, SetSpec]:
    return {name: each.spec for name, each in state.sets.items() if each.spec is not None}


@given(SEEDS, SEEDS)
def test_all_parts_in_their_order_are_the_whole(before: int, after: int) -> None:
    start = TableState.bare(SET_SPECS).apply(snapshot(before))
    change = diff(start, snapshot(after))
    now = start
    for step in steps(change, specs_of(start)):
        for part in step:
            now = now.apply(part)
            assert all(rule and rule.verdict != Verdict("drop") for rule in now.chains.get(INPUT_CHAIN) or ())
    assert now == start.apply(change)


@given(SEEDS, SEEDS, st.integers(1, 5))
def test_parts_that_are_made_together_are_the_same(before: int, after: int, together: int) -> None:
    start = TableState.bare(SET_SPECS).apply(snapshot(before))
    change = diff(start, snapshot(after))
    now = start
    for step in steps(change, specs_of(start)):
        for first in range(0, len(step), together):
            now = now.apply(merged(step[first : first + together]))
    assert now == start.apply(change)


class Table:
    """A kernel that takes so many elements at once, and none with these keys or in chains of these names."""

    def __init__(self, most: int = 10**9, bad: frozenset[bytes | str] = frozenset()) -> None:
        self.state = TableState.bare((*SET_SPECS, *SERVICE_SET_SPECS))
        self.specs = specs_of(self.state)
        self._most, self._bad = most, bad

    def make(self, transaction: Transaction) -> None:
        if sum(len(each.packed_keys) for each in (*transaction.put, *transaction.remove)) > self._most:
            raise KernelError("too long", errno=errno.EMSGSIZE)
        if any(
            key in each.packed_keys for each in transaction.put for key in self._bad if isinstance(key, bytes)
        ) or any(
            chain.name in self._bad and chain.rules[0].verdict != Verdict("drop") for chain in transaction.put_chains
        ):
            raise KernelError("no", errno=errno.EINVAL)
        self.state = self.state.apply(transaction)


def test_the_chain_that_all_packets_to_the_node_pass_never_drops_in_place_of_another() -> None:
    table = Table(bad=frozenset({"one", INPUT_CHAIN}))
    jump, allowing = Rule((), Verdict("jump", "one"), ""), Rule((), Verdict("return"), "")
    change = Transaction(put_chains=(Chain("one", (allowing,)), Chain(INPUT_CHAIN, (jump,))))
    refused = apply_in_portions(change, table.specs, table.make, CLASS_MAPS)
    assert len(refused) == 2
    assert table.state.chains.keys() == {"one"}


def some_addresses(count: int) -> bytes:
    return b"".join(b"\x0a\x01" + number.to_bytes(2) for number in range(count))


def test_what_is_too_large_goes_in_by_and_by() -> None:
    table = Table(most=400)
    peers = SetSpec("peers", ("ipv4_addr",))
    change = Transaction(
        put_sets=(peers,),
        put=(ElementBatch("peers", some_addresses(3000)), ElementBatch("hairpins4", some_addresses(2000))),
    )
    assert apply_in_portions(change, table.specs, table.make, CLASS_MAPS) == []
    assert table.state == TableState.bare((*SET_SPECS, *SERVICE_SET_SPECS)).apply(change)


def test_what_one_destination_needs_is_never_parted() -> None:
    """Its endpoints and the way to them, what goes and what comes."""
    table = Table()
    vip = b"\x0a\x60\0\1\6\0\0\0\0\x50\0\0"
    endpoint = b"\x0a\xf4\0\1\x1f\x90\0\0"
    first = [ElementBatch("endpoints4", vip + bytes((turn, 0, 0, 0)), endpoint) for turn in range(3)]
    table.make(Transaction(put=(*first, ElementBatch("services4", vip, verdict=Verdict("drop")))))
    change = Transaction(
        remove=(ElementBatch("endpoints4", vip + bytes((2, 0, 0, 0))), ElementBatch("services4", vip)),
        put=(ElementBatch("services4", vip, verdict=Verdict("return")),),
    )
    *_, elements, _ = steps(change, table.specs)
    assert elements == [change]


VIP = b"\x0a\x60\0\1\6\0\0\0\0\x50\0\0"


def served(count: int, *, first: int) -> Transaction:
    """A destination with so many endpoints, counted by the chain that chooses one."""
    keys = b"".join(VIP + turn.to_bytes(4, "little") for turn in range(count))
    data = b"".join(b"\x0a\xf4" + number.to_bytes(2) + b"\x1f\x90\0\0" for number in range(first, first + count))
    chain = Chain(f"of-{count}", ())
    return Transaction(
        put_chains=(chain,),
        put=(
            ElementBatch("endpoints4", keys, data),
            ElementBatch("services4", VIP, verdict=Verdict("goto", chain.name)),
        ),
    )


@pytest.mark.parametrize(("before", "after"), [(0, 100), (100, 60), (60, 100), (100, 100), (100, 0)])
def test_a_destination_that_is_too_large_by_itself_never_leads_to_what_is_not_there(before: int, after: int) -> None:
    table = Table()
    bare = table.state
    table.make(served(before, first=0) if before else Transaction())
    table = Limited(table.state, most=300)
    change = diff(table.state, served(after, first=7) if after else Transaction())
    assert apply_in_portions(change, table.specs, table.make, CLASS_MAPS) == []
    assert table.state == bare.apply(served(after, first=7) if after else Transaction())
    assert table.made > 3


class Limited(Table):
    """Looks after each transaction whether all that is counted is there."""

    def __init__(self, state: TableState, most: int) -> None:
        super().__init__(most)
        self.state = state
        self.specs = specs_of(state)
        self.made = 0

    def make(self, transaction: Transaction) -> None:
        super().make(transaction)
        self.made += 1
        endpoints = self.state.sets["endpoints4"].elements
        for verdict in self.state.sets["services4"].elements.values():
            assert isinstance(verdict, Verdict)
            count = int((verdict.chain or "").removeprefix("of-"))
            assert all(VIP + turn.to_bytes(4, "little") in endpoints for turn in range(count))


@pytest.mark.parametrize("bad", [TWO, "two"])
def test_what_is_refused_is_left_out_and_whom_it_judges_gets_nowhere(bad: bytes | str) -> None:
    allowing = Rule((), Verdict("return"), "np:a/b#ingress[0]")
    chains = tuple(Chain(name, (allowing,)) for name in ("one", "two", "three"))
    peers = SetSpec("peers", ("ipv4_addr",))
    ways = zip((ONE, TWO, THREE), chains, strict=True)
    change = Transaction(
        put_sets=(peers,),
        put_chains=chains,
        put=tuple(ElementBatch("ingress4", key, verdict=Verdict("jump", chain.name)) for key, chain in ways),
    )
    table = Table(bad=frozenset({bad}))
    if bad == TWO:  # this kernel takes the key with no verdict but one that drops
        plain = table.make

        def make(transaction: Transaction) -> None:
            if any(each.verdict == Verdict("drop") for each in transaction.put):
                table.state = table.state.apply(transaction)
            else:
                plain(transaction)

        table.make = make  # type: ignore[method-assign]
    (refused,) = apply_in_portions(change, table.specs, table.make, CLASS_MAPS)
    assert refused.error.errno == errno.EINVAL
    state = table.state.sets["ingress4"].elements
    if bad == TWO:
        assert state == {ONE: Verdict("jump", "one"), TWO: Verdict("drop"), THREE: Verdict("jump", "three")}
        assert refused.part == Transaction(put=(change.put[1],))
    else:
        assert state == {each.packed_keys: each.verdict for each in change.put}
        rules = table.state.chains["two"]
        assert rules is not None
        (rule,) = rules
        assert rule is not None
        assert rule.verdict == Verdict("drop")
        assert table.state.chains["three"] == (allowing,)


def test_a_kernel_that_takes_nothing_is_no_fault_of_a_part() -> None:
    def make(transaction: Transaction) -> None:
        raise KernelError("may not", errno=errno.EPERM)

    with pytest.raises(KernelError):
        apply_in_portions(
            Transaction(put=(ElementBatch("self4", ONE * 2),)), specs_of(TableState.bare(SET_SPECS)), make, CLASS_MAPS
        )
