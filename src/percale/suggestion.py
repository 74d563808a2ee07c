"""The nearest known word to one that is not known: the hints of errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_NEARLY_THE_SAME = 0.8


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known word that resembles it most, in any case of letters; None if none resembles it by `cutoff` (0 to 1).

    Where none is nearly the same, the only one that ends with it, as containerPort with port.
    """
    folded, by_folded = word.casefold(), {each.casefold(): each for each in known}
    ending = [each for each in by_folded if len(folded) > 2 and each.endswith(folded)]
    found = (
        difflib.get_close_matches(folded, by_folded, n=1, cutoff=max(cutoff, _NEARLY_THE_SAME))
        or (ending if len(ending) == 1 else [])
        or difflib.get_close_matches(folded, by_folded, n=1, cutoff=cutoff)
    )
    return by_folded[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "", cutoff: float = 0.6) -> str | None:
    """`did you mean pods?`; None without a resembling word."""
    found = nearest(word, known, cutoff=cutoff)
    return f"did you mean {prefix}{found}?" if found is not None else None


def suggest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """The same, else all known words."""
    words = list(known)
    return did_you_mean(word, words, cutoff=cutoff) or f"there are {', '.join(words)}"


def some_of(known: Iterable[str], count: int = 5) -> str | None:
    """`there are a, b, c and 4 more`; None: there are none."""
    words = sorted(known)
    return f"there are {first_few(words, count)}" if words else None


def first_few(words: Sequence[str], count: int = 5) -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(words) - count} more" if len(words) > count else ""
    return f"{', '.join(words[:count])}{more}"


def is_one_edit(word: str, other: str) -> bool:
    """Whether a letter left out, added or replaced, or two that are swapped, make one of the other."""
    start = _common(word, other)
    rests = word[start:], other[start:]
    end = _common(*(rest[::-1] for rest in rests))
    here, there = (rest[: len(rest) - end] for rest in rests)
    return max(len(here), len(there)) == 1 or (len(here) == len(there) == 2 and here == there[::-1])


def _common(word: str, other: str) -> int:
    """How many of the first letters are equal."""
    pairs = enumerate(zip(word, other, strict=False))
    return next((index for index, (here, there) in pairs if here != there), min(len(word), len(other)))
