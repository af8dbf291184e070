"""The fold sketch: a linear map of all weights to 1021 numbers that keeps distances.

A flattened tensor is multiplied by pseudo-random signs, cut into rows of `dim` numbers (the last one padded with
zeros) and summed over the rows. Signs come from one table of ±1 that all parameters share: every block of 256 rows
reads its own window of the table, shifted and negated by a hash of (seed, parameter name, global block number). They
depend on nothing else, so the sketch of a shard lands where the same elements of the whole tensor would, and sketches
of disjoint parts add up. One pass over the weights is all it costs.

The width is a prime because a power of two aligns with layer widths; the signs change from element to element because
one sign a row would let anything of nonzero mean collapse.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from topowatch_client.batches import Batches, Stretch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

DIMENSION = 1021
# Rows that share one window: long enough that the kernel runs at memory speed, short enough to stay in cache.
_BLOCK_ROWS = 256
# Positions that a window can start at. Two windows that meet at a multiple of `dim` repeat signs; 2^18 keeps that rare.
_WINDOW_STARTS = 1 << 18
# Elements folded in one kernel, and pasted at once by `box`, where launching kernels is what costs (accelerators).
_GATHER_ELEMENTS = 1 << 22
# Elements pasted at once on the CPU.
_BOX_ELEMENTS = 1 << 20
# Parts of at most this many rows are packed and folded together, up to so many rows in all: one by one, calls dominate.
_SMALL_ROWS = 8
_PACK_ROWS = 1024
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


class Part(NamedTuple):
    """A block of a parameter, whole or as a shard holds one: `values` begins at index `starts` of the whole.

    Sketches are of the first four fields; the others go with it for whoever looks at more than values.
    """

    name: str
    values: torch.Tensor
    shape: tuple[int, ...]  # of the whole parameter
    starts: tuple[int, ...]
    gradient: torch.Tensor | None = None  # of the same elements; None where there is none, or it waits to be reduced
    frozen: bool = False
    find_gradient: Callable[[], torch.Tensor | None] | None = None  # at a later step, where it is not `values.grad`

    @classmethod
    def whole(cls, name: str, values: torch.Tensor) -> Part:
        """Return the part that is all of a parameter."""
        shape = values.shape
        return cls(name, values, shape, (0,) * len(shape), values.grad, not values.requires_grad)

    @property
    def flat_start(self) -> int | None:
        """Where it starts in the flattened whole, None if it does not lie there in one piece."""
        if tuple(self.values.shape[1:]) != self.shape[1:]:
            return None
        return self.starts[0] * math.prod(self.shape[1:]) if self.starts else 0


class _Pack(NamedTuple):
    """A buffer of rows that small parts are copied into, each from the column on that it begins in."""

    buffer: torch.Tensor  # rows × dim, zero wherever no part lies
    views: list[torch.Tensor]  # of the parts' places in it
    signs: torch.Tensor  # rows × dim
    owners: torch.Tensor  # of each row: the part's number


def splitmix64(values: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Hash uint64 numbers, element by element, the same everywhere (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def signs(key: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return `count` pseudo-random float32 numbers, each 1 or −1, that depend on the 64-bit `key` alone."""
    words = np.arange(-(-count // 64), dtype=np.uint64) * np.uint64(0xD1342543DE82EF95) + np.uint64(key)
    octets = splitmix64(words).astype("<u8").view(np.uint8)
    bits = np.unpackbits(octets, count=count, bitorder="little")
    return (bits.astype(np.float32) * 2) - 1


def canonical_name(name: str) -> str:
    """Drop what wrappers put into a parameter's name, so that plain, compiled and DDP models agree."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS) or name


def name_key(name: str) -> int:
    """Return the 64-bit key of a parameter's canonical name."""
    return int.from_bytes(hashlib.blake2b(canonical_name(name).encode(), digest_size=8).digest(), "little")


@functools.lru_cache(maxsize=8)
def _table(seed: int, dim: int, device: torch.device) -> torch.Tensor:
    key = int(splitmix64(np.array([seed % 2**64], dtype=np.uint64))[0])
    return torch.from_numpy(signs(key, _WINDOW_STARTS + _BLOCK_ROWS * dim)).to(device)


class FoldSketch:
    """Linear sketches to `dim` float32 numbers; equal (seed, dim) give comparable sketches everywhere.

    Distances between sketched weights differ from the true ones by 2 % (one standard deviation) whatever the shape of
    the difference. An instance keeps small scratch buffers and is not meant for several threads at once.
    """

    def __init__(self, seed: int = 0, dim: int = DIMENSION) -> None:
        if dim < 1:
            raise ValueError(f"a sketch has at least one number, not {dim}")
        self.seed = seed
        self.dim = dim
        self._block = _BLOCK_ROWS * dim
        self._window_cache: dict[str, list[tuple[int, int]]] = {}
        self._scratch: dict[tuple[torch.device, str], torch.Tensor] = {}
        self._packed: tuple[object, _Pack] | None = None
        self._batched: tuple[object, Batches] | None = None

    def slice(self, name: str, values: torch.Tensor, offset: int = 0) -> torch.Tensor:
        """Sketch a part of parameter `name` that is contiguous in the flattened whole.

        Args:
            name: Parameter name; `module.` and `_orig_mod.` in it are ignored.
            values: Tensor of any shape and real type, read in row-major order.
            offset: Index in the flattened whole parameter of the first element of `values`.

        Returns:
            float32 tensor of `dim` numbers on the device of `values`.

        Raises:
            ValueError: `offset` is negative.
        """
        if offset < 0:
            raise ValueError(f"a slice starts at element 0 or later, not at {offset}")
        result = torch.zeros(self.dim, dtype=torch.float32, device=values.device)
        with torch.no_grad():
            for piece in _contiguous_pieces(values.detach()):
                self._add(name, piece, offset, result)
                offset += piece.numel()
        return result

    def box(self, name: str, values: torch.Tensor, global_shape: Sequence[int], starts: Sequence[int]) -> torch.Tensor:
        """Sketch an axis-aligned block of parameter `name`, as a tensor-parallel shard holds one.

        Args:
            name: Parameter name.
            values: The block, as many dimensions as `global_shape`.
            global_shape: Shape of the whole parameter.
            starts: Index of the block's first element in every dimension.

        Returns:
            float32 tensor of `dim` numbers. Blocks that tile the parameter add up to the sketch of the whole.

        Raises:
            ValueError: The block does not lie within `global_shape`.
        """
        shape, first = tuple(global_shape), tuple(starts)
        if not values.dim() == len(shape) == len(first):
            raise ValueError(f"block {tuple(values.shape)}, shape {shape} and starts {first} differ in dimensions")
        if any(s < 0 or s + size > whole for s, size, whole in zip(first, values.shape, shape, strict=True)):
            raise ValueError(f"block {tuple(values.shape)} at {first} does not lie within {shape}")
        result = torch.zeros(self.dim, dtype=torch.float32, device=values.device)
        with torch.no_grad():
            self._add_box(result, name, values.detach(), shape=shape, starts=first, offset=0)
        return result

    def model(self, named_parameters: Iterable[tuple[str, torch.Tensor]]) -> torch.Tensor:
        """Sketch whole parameters, as `Module.named_parameters` yields them, to one float32 vector of `dim` numbers."""
        rows = [self.slice(name, values) for name, values in named_parameters]
        return torch.stack(rows).sum(0) if rows else torch.zeros(self.dim, dtype=torch.float32, device="cpu")

    def matrix(self, parts: Sequence[Part]) -> torch.Tensor:
        """Sketch parts one by one: float32 (parts × dim); rows of parts that tile a model add up to its sketch.

        All parts lie on one device and within their parameters.
        """
        device = parts[0].values.device if parts else torch.device("cpu")
        rows = torch.zeros(len(parts), self.dim, dtype=torch.float32, device=device)
        with torch.no_grad():
            small = self._small(parts)
            if small:
                pack = self._pack([parts[index] for index in small], tuple(small), device)
                torch._foreach_copy_(pack.views, [parts[index].values for index in small])
                rows.index_add_(0, pack.owners, pack.buffer.mul_(pack.signs))
            rest = sorted({*range(len(parts))}.difference(small))
            if device.type != "cpu":  # where kernels cost more to launch than to run
                rest = self._fold_together(parts, rest, rows)
            for index in rest:
                part = parts[index]
                values = part.values.detach()
                self._add_box(rows[index], part.name, values, shape=part.shape, starts=part.starts, offset=0)
        return rows

    def _fold_together(self, parts: Sequence[Part], numbers: Sequence[int], rows: torch.Tensor) -> list[int]:
        """Sketch those of the numbered parts that lie in one piece, and return the others."""
        flat = {n: start for n in numbers if (start := parts[n].flat_start) is not None and _is_one_piece(parts[n])}
        if flat:
            key = rows.device, tuple((n, parts[n].name, parts[n].values.shape, start) for n, start in flat.items())
            if self._batched is None or self._batched[0] != key:
                self._batched = key, self._batches(parts, flat, rows.device)
            self._batched[1].fold([parts[n].values.detach().view(-1) for n in flat], rows)
        return [n for n in numbers if n not in flat]

    def _batches(self, parts: Sequence[Part], starts: Mapping[int, int], device: torch.device) -> Batches:
        stretches = []
        for n, start in starts.items():
            count = parts[n].values.numel()
            windows = self._windows(parts[n].name, (start + count - 1) // self._block + 1)
            stretches.append(Stretch(n, start, count, windows))
        return Batches(stretches, _table(self.seed, self.dim, device), _BLOCK_ROWS, self.dim)

    def _small(self, parts: Sequence[Part]) -> list[int]:
        """Return the numbers of the parts to pack."""
        chosen, room = [], _PACK_ROWS
        for index, part in enumerate(parts):
            count = part.values.numel()
            if 0 < count <= _SMALL_ROWS * self.dim and part.flat_start is not None:
                room -= count // self.dim + 2
                if room < 0:
                    break
                chosen.append(index)
        return chosen

    def _pack(self, parts: Sequence[Part], owners: tuple[int, ...], device: torch.device) -> _Pack:
        """Return the buffer for these parts; it is kept until others come."""
        key = (device, owners, tuple((part.name, part.values.shape, part.starts) for part in parts))
        if self._packed is not None and self._packed[0] == key:
            return self._packed[1]
        places, owning, rows = [], [], 0
        for part, owner in zip(parts, owners, strict=True):
            offset, count = part.flat_start or 0, part.values.numel()
            used = -(-(offset % self.dim + count) // self.dim)
            places.append((rows * self.dim + offset % self.dim, offset, count))
            owning += [owner] * used
            rows += used
        flat, signs = torch.zeros(2, rows * self.dim, dtype=torch.float32, device=device)
        views = []
        for part, (place, offset, count) in zip(parts, places, strict=True):
            views.append(flat[place : place + count].view(part.values.shape))
            self._spread_signs(part.name, offset, signs[place : place + count])
        shape = (rows, self.dim)
        pack = _Pack(flat.view(shape), views, signs.view(shape), to_device(torch.tensor(owning, device="cpu"), device))
        self._packed = key, pack
        return pack

    def _spread_signs(self, name: str, offset: int, out: torch.Tensor) -> None:
        """Write the signs of the elements from `offset` on."""
        windows = self._windows(name, (offset + len(out) - 1) // self._block + 1)
        table, position = _table(self.seed, self.dim, out.device), 0
        while position < len(out):
            number, inside = divmod(offset + position, self._block)
            length = min(self._block - inside, len(out) - position)
            start, sign = windows[number]
            torch.mul(table[start + inside : start + inside + length], sign, out=out[position : position + length])
            position += length

    def _add_box(
        self,
        result: torch.Tensor,
        name: str,
        values: torch.Tensor,
        *,
        shape: tuple[int, ...],
        starts: tuple[int, ...],
        offset: int,
    ) -> None:
        """Paste the block into zeros, a few leading indices at a time, and sketch the contiguous ranges it spans."""
        if values.numel() == 0:
            return
        stride = math.prod(shape[1:])
        if not shape or tuple(values.shape[1:]) == shape[1:]:
            whole = offset + (starts[0] * stride if starts else 0)
            for piece in _contiguous_pieces(values):
                self._add(name, piece, whole, result)
                whole += piece.numel()
            return
        room = _BOX_ELEMENTS if values.device.type == "cpu" else _GATHER_ELEMENTS
        if stride > room:
            for index, part in enumerate(values, start=starts[0]):
                inside = offset + index * stride
                self._add_box(result, name, part, shape=shape[1:], starts=starts[1:], offset=inside)
            return
        inner = tuple(slice(s, s + size) for s, size in zip(starts[1:], values.shape[1:], strict=True))
        rows = room // stride
        for row in range(0, values.shape[0], rows):
            part = values[row : row + rows]
            pasted = torch.zeros(part.shape[0], *shape[1:], dtype=torch.float32, device=values.device)
            pasted[(slice(None), *inner)] = part
            self._add(name, pasted.reshape(-1), offset + (starts[0] + row) * stride, result)

    def _add(self, name: str, flat: torch.Tensor, offset: int, result: torch.Tensor) -> None:
        """Add the sketch of a contiguous one-dimensional piece to `result`."""
        count = flat.numel()
        if count == 0:
            return
        block = self._block
        windows = self._windows(name, (offset + count - 1) // block + 1)
        if flat.device.type != "cpu":
            head = min(-offset % block, count)
            whole = (count - head) // block
            if whole > 1:
                self._gather(windows[(offset + head) // block :][:whole], flat[head : head + whole * block], result)
                tail = head + whole * block
                self._run(windows, flat[:head], offset, result)
                self._run(windows, flat[tail:], offset + tail, result)
                return
        self._run(windows, flat, offset, result)

    def _run(self, windows: list[tuple[int, int]], flat: torch.Tensor, offset: int, result: torch.Tensor) -> None:
        """Fold block by block into a scratch buffer that stays in cache, then sum its rows."""
        count = flat.numel()
        if count == 0:
            return
        block, dim = self._block, self.dim
        table = _table(self.seed, dim, flat.device)
        inside = offset % block
        if inside + count <= block:
            skipped = inside - inside % dim
            used = -(-(inside + count - skipped) // dim) * dim
        else:
            skipped, used = 0, block
        total = self._buffer(flat.device, "total")[:used].zero_()
        convert = flat.dtype != torch.float32
        position = 0
        while position < count:
            number, inside = divmod(offset + position, block)
            length = min(block - inside, count - position)
            chunk = flat[position : position + length]
            if convert:
                chunk = self._buffer(flat.device, "chunk")[:length].copy_(chunk)
            start, sign = windows[number]
            start += inside
            into = inside - skipped
            total[into : into + length].addcmul_(chunk, table[start : start + length], value=sign)
            position += length
        result += total.view(-1, dim).sum(0)

    def _gather(self, windows: list[tuple[int, int]], flat: torch.Tensor, result: torch.Tensor) -> None:
        """Fold whole blocks with few large kernels."""
        block = self._block
        views = _table(self.seed, self.dim, flat.device).unfold(0, block, 1)
        step = max(1, _GATHER_ELEMENTS // block)
        chosen = to_device(torch.tensor(windows, device="cpu"), flat.device)
        for first in range(0, len(windows), step):
            part = chosen[first : first + step]
            signed = views[part[:, 0]].mul_(part[:, 1:])
            signed.mul_(flat[first * block : (first + len(part)) * block].view(-1, block))
            result += signed.view(-1, self.dim).sum(0)

    def _windows(self, name: str, count: int) -> list[tuple[int, int]]:
        """Return (start in the table, sign) of the first `count` blocks of a parameter."""
        known = self._window_cache.get(name, [])
        if len(known) < count:
            blocks = np.arange(count, dtype=np.uint64) * np.uint64(0xA0761D6478BD642F)
            keys = np.array([name_key(name), self.seed % 2**64], dtype=np.uint64)
            hashed = splitmix64(blocks + splitmix64(keys[:1] ^ splitmix64(keys[1:])))
            starts = ((hashed >> np.uint64(1)) % np.uint64(_WINDOW_STARTS)).tolist()
            negative = (hashed & np.uint64(1)).tolist()
            known = [(start, 1 - 2 * bit) for start, bit in zip(starts, negative, strict=True)]
            self._window_cache[name] = known
        return known

    def _buffer(self, device: torch.device, use: str) -> torch.Tensor:
        buffer = self._scratch.get((device, use))
        if buffer is None:
            buffer = self._scratch[device, use] = torch.empty(self._block, dtype=torch.float32, device=device)
        return buffer


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring a tensor to a device without making the host wait for what that is busy with."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def _is_one_piece(part: Part) -> bool:
    return part.values.is_contiguous() and part.values.numel() > 0


def _contiguous_pieces(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield `values` in row-major order as flat tensors, without a copy where the memory is laid out that way."""
    if values.is_contiguous() or values.numel() <= _BOX_ELEMENTS or values.dim() == 0:
        yield values.reshape(-1)
        return
    rows = max(1, _BOX_ELEMENTS * values.shape[0] // values.numel())
    for first in range(0, values.shape[0], rows):
        yield values[first : first + rows].reshape(-1)
