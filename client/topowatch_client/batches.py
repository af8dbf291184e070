"""Folds many tensors with few kernels: on an accelerator to launch them one by one is what a sketch costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SLOTS = 16  # blocks folded at once: 16 MB of scratch where a block has 256 × 1021 elements


class Stretch(NamedTuple):
    """Part of a flattened parameter, and the windows that its blocks read their signs from."""

    row: int  # of its sketch
    offset: int  # of its first element in the whole
    length: int  # elements, at least 1
    windows: Sequence[tuple[int, int]]  # (start in the table, sign) of each block of the whole, up to its last


class _Batch(NamedTuple):
    first: int  # of its pieces
    places: list[torch.Tensor]  # where they go: each into a slot of its own
    signs: list[torch.Tensor]  # of their elements, but for the sign of the window
    turns: torch.Tensor  # blocks × 1: signs of the windows
    rows: torch.Tensor  # of each block's sketch
    filled: bool  # each piece fills its slot


class Batches:
    """How stretches that come again and again are cut into blocks.

    Args:
        stretches: What will be folded, in this order.
        table: Signs, on the device where all lie.
        rows: Of a block.
        dim: Numbers in a row.
    """

    def __init__(self, stretches: Sequence[Stretch], table: torch.Tensor, rows: int, dim: int) -> None:
        block = rows * dim
        cut = [list(_cut(each, block)) for each in stretches]
        pieces = [piece for each in cut for piece in each]
        self._sizes = [[piece.length for piece in each] for each in cut]
        used = min(SLOTS, len(pieces))
        self._slots = torch.zeros(used, rows, dim, dtype=torch.float32, device=table.device)
        flat = self._slots.view(used, block)
        self._batches = []
        for first in range(0, len(pieces), SLOTS):
            part = pieces[first : first + SLOTS]
            numbers = torch.tensor([(piece.row, piece.sign) for piece in part], device="cpu").to(table.device)
            self._batches.append(
                _Batch(
                    first,
                    [slot[piece.inside : piece.inside + piece.length] for slot, piece in zip(flat, part, strict=False)],
                    [table[piece.window + piece.inside :][: piece.length] for piece in part],
                    numbers[:, 1:].float(),
                    numbers[:, 0].contiguous(),
                    all(piece.length == block for piece in part),
                )
            )

    def fold(self, flats: Sequence[torch.Tensor], rows: torch.Tensor) -> None:
        """Add the sketch of each stretch to its row.

        Args:
            flats: The stretches' elements, of any real type.
            rows: The sketches, float32.
        """
        sizes = zip(flats, self._sizes, strict=True)
        pieces = [piece for flat, lengths in sizes for piece in torch.split(flat, lengths)]
        for batch in self._batches:
            count = len(batch.places)
            if not batch.filled:
                self._slots.zero_()
            torch._foreach_copy_(batch.places, pieces[batch.first : batch.first + count])
            torch._foreach_mul_(batch.places, batch.signs)
            rows.index_add_(0, batch.rows, self._slots[:count].sum(1).mul_(batch.turns))


class _Piece(NamedTuple):
    row: int
    inside: int  # where it begins in its block
    length: int
    window: int
    sign: int


def _cut(stretch: Stretch, block: int) -> Iterator[_Piece]:
    position, end = stretch.offset, stretch.offset + stretch.length
    while position < end:
        inside = position % block
        length = min(block - inside, end - position)
        yield _Piece(stretch.row, inside, length, *stretch.windows[position // block])
        position += length
