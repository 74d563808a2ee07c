"""Keys in values that are logged, compared and shown in errors."""

from __future__ import annotations


class Secret:
    """Bytes that no text shows. Equal ones are equal, in a time that tells nothing."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """For who needs them: the kernel, a file."""
        return self._value

    def __eq__(self, other: object) -> bool:
        from hmac import compare_digest  # noqa: PLC0415 -- loads OpenSSL, and few processes have a secret

        return isinstance(other, Secret) and compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret"
