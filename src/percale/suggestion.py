"""The nearest known word to one that is not known: the hints of errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known word that resembles it most, in any case of letters; None if none resembles it by `cutoff` (0 to 1)."""
    by_folded = {each.casefold(): each for each in known}
    found = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "", cutoff: float = 0.6) -> str | None:
    """`did you mean pods?`; None without a resembling word."""
    found = nearest(word, known, cutoff=cutoff)
    return f"did you mean {prefix}{found}?" if found is not None else None


def suggest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """The same, else all known words."""
    words = list(known)
    return did_you_mean(word, words, cutoff=cutoff) or f"there are {', '.join(words)}"
