"""Answers about objects that are in no file."""

from __future__ import annotations

from percale.explain.world import World

NOWHERE = World((), {})
"""No policy is from a file."""
