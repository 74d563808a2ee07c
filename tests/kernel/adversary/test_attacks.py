"""Every attack against every wiring, backend and family that it fits."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from tests.kernel.adversary.worlds import ATTACKS, TERMS, Attack, Family, Terms, World

for _path in sorted(Path(__file__).parent.glob("attacks_*.py")):
    import_module(f"tests.kernel.adversary.{_path.stem}")  # registers what it has


@pytest.mark.parametrize(
    ("terms", "attack", "family"),
    [
        pytest.param(terms, attack, family, id=f"{terms}-{attack.name}-ipv{family}")
        for terms in TERMS
        for attack in ATTACKS
        if attack.meets(terms)
        for family in attack.families
        if family in terms.families
    ],
)
def test_it_fails(world_of: Callable[[Terms], World], terms: Terms, attack: Attack, family: Family) -> None:
    attack.run(world_of(terms), family)


def test_attacks_have_names_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) > 0
