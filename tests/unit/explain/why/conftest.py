"""Answers about objects that are in no file."""

from __future__ import annotations

from percale.explain.world import World
from percale.model.manifest.written_objects import WrittenObjects

NOWHERE = World((), {}, WrittenObjects())
"""No policy is from a file."""
