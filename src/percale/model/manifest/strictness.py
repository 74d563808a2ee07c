"""What becomes of unknown fields in manifests; a module of its own, which every command can afford to import."""

from __future__ import annotations

from typing import Literal, TypeAlias

Validation: TypeAlias = Literal["strict", "warn", "ignore"]
"""As with `kubectl --validate`: an error, a warning, or nothing."""
