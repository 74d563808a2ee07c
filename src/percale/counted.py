"""`1 pod`, `2 pods`: how every message says a count."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`noun` is the singular; what stands before the last word may be anything (`ready endpoint`)."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
