"""The version of the messages of v1 that this code speaks."""

from __future__ import annotations

SCHEMA = 1  # Item.schema: raised when an older daemon could not understand a newer item
