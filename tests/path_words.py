"""Loops from one point around two holes, spelled as words: `a` once round the left hole, `A` back, `b` and `B` right.

Their classes are known: homology sees how often each letter stands in a word, and not in which order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planted_paths import embedded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# The territory around a hole reaches from here to the rim of the unit circle about its middle and a little beyond.
RIM = 0.6


def loops(word: str, rng: np.random.Generator, *, width: float = 0.15, points: int = 60) -> NDArray[np.float64]:
    """A path that spells the word: T × 2. The empty word goes a little way out of the origin and back."""
    angle = np.linspace(0.0, 2.0 * np.pi, points)
    if not word:
        return 0.05 * np.column_stack([np.sin(angle), rng.uniform(-1.0, 1.0) * np.sin(angle / 2.0)])
    part = angle / (2.0 * np.pi)
    inward = np.clip(np.minimum(part, 1.0 - part) * 6.0, 0.0, 1.0)
    pieces = []
    for letter in word:
        side = -1.0 if letter in "aA" else 1.0
        turned = (angle if letter.islower() else -angle) + (0.0 if side < 0 else np.pi)
        away = (1.0 - inward) + inward * (RIM + width * abs(rng.standard_normal()))
        pieces.append(np.column_stack([side + away * np.cos(turned), away * np.sin(turned)]))
    return np.concatenate(pieces)


def spelled(words: Sequence[str], seed: int, *, dims: int = 5, noise: float = 0.01) -> list[NDArray[np.float64]]:
    """A path for every word, in `dims` dimensions."""
    rng = np.random.default_rng(seed)
    return embedded([loops(word, rng) for word in words], dims, noise, rng)


def homology(word: str) -> tuple[int, int]:
    """How often the word goes round each hole."""
    return word.count("a") - word.count("A"), word.count("b") - word.count("B")
