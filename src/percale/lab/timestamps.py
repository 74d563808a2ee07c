"""The time, as Kubernetes writes it."""

from __future__ import annotations

from datetime import UTC, datetime

from percale.model.meta import timestamp


def now() -> str:
    return timestamp(datetime.now(UTC))


def parse_time(text: str | None) -> datetime:
    """The current time when the text is not a time: users can write it."""
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.now(UTC)
