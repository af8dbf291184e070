"""Which part of a model this rank sends: whole parameters on rank 0, its own slices where parameters are sharded.

Nothing here communicates. Every rank finds out from the layout alone who sends what: of replicas, the one with
coordinate 0 does; of meshes that lie side by side (a tensor-parallel one in each data-parallel group), the one through
coordinate 0 of the whole does. Parts of all senders tile the model, so their sketches add up.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
import math
import sys
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from topowatch_client.roster import Roster
from topowatch_client.sketch import Part, canonical_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Indices = np.ndarray[Any, np.dtype[np.int64]]


_Plain = tuple[str, tuple[int, ...], "weakref.ref[torch.Tensor]"]  # a parameter's name, zeros, itself
_FOREIGN = {"ds_id": "DeepSpeed ZeRO-3", "tensor_model_parallel": "Megatron"}


@dataclass(frozen=True)
class Patterns:
    """Which parameters are watched: shell patterns of their names without wrappers; those left out win."""

    include: tuple[str, ...] = ()  # empty: all
    exclude: tuple[str, ...] = ()

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        chosen = not self.include or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include)
        return chosen and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)


@dataclass(frozen=True)
class _Block:
    starts: tuple[int, ...]  # in the whole parameter
    inside: tuple[slice, ...]  # in the local tensor


@dataclass
class _Layout:
    """How one DTensor is spread, and what of it this rank sends."""

    parameter: Any
    senders: frozenset[int]
    blocks: list[_Block] = field(default_factory=list)


class Shards:
    """Finds the parts of a model that this rank sends.

    Args:
        model: Plain, or sharded by FSDP, FSDP2 or as DTensors; not wrapped in DistributedDataParallel.
        rank: This process's rank in the whole job.
        patterns: Which parameters are watched.
    """

    def __init__(self, model: torch.nn.Module, rank: int = 0, patterns: Patterns | None = None) -> None:
        self.coverage = 1.0  # share of the model's parameters that all senders together cover, as of the last `held`
        self.parameter_count = 0
        self.model = model
        self._rank = rank
        self._patterns = patterns or Patterns()
        self._names: dict[str, str | None] = {}
        self._layouts: dict[str, _Layout] = {}
        self._plain: tuple[Roster, list[_Plain]] | None = None
        self._senders: frozenset[int] = frozenset()
        self.sharded = self.is_sharded()
        self.held()

    @property
    def senders(self) -> list[int]:
        """Ranks whose parts add up to the model, as far as this rank can know them: it is right if it is one."""
        return sorted(self._senders or {0})

    def is_sharded(self) -> bool:
        """Say whether the model is sharded now; `sharded` tells what it was when it was attached."""
        return any(_is_sharded(parameter) for parameter in self.model.parameters()) or any(
            _spreads(module) for _, module in _flat_modules(self.model)
        )

    def release(self) -> None:
        """Keep nothing of the model; `coverage` stays what it was."""
        self.model = torch.nn.Module()
        self._plain = None
        self._layouts.clear()

    def held(self) -> list[Part]:
        """Return what this rank sends now."""
        if self._plain is not None and self._plain[0].still_holds(self.model):
            # All in one expression: this is most of what a look costs beyond its kernels.
            return [
                Part(name, whole, whole.shape, starts, whole.grad, not whole.requires_grad)
                for name, starts, reference in self._plain[1]
                if (whole := reference()) is not None
            ]
        found: list[Part] = []
        plain: list[_Plain] = []
        later = False
        senders: set[int] = set()
        covered = total = 0
        flattened: set[int] = set()
        for prefix, module in _flat_modules(self.model):
            flattened |= _flat_identities(module)
            who = _flat_senders(module)
            for name, size, held in self._flat(prefix, module, mine=self._rank in who):
                total += size
                if self._watched(name):
                    senders |= who
                    covered += size if who else 0
                    found += held
        for name, parameter in self.model.named_parameters():
            if id(parameter) in flattened:
                continue
            total += getattr(parameter, "ds_numel", parameter.numel())
            clean = self._watched(name)
            if clean is None:
                continue
            if not _has_numbers(parameter):
                later = True  # a parameter on the meta device may get some in its place
                continue
            layout = self._layout(clean, parameter)
            if layout is None:
                senders.add(0)
                covered += parameter.numel()
                if self._rank == 0:
                    found.append(Part.whole(clean, parameter))
                    plain.append((clean, found[-1].starts, weakref.ref(parameter)))
                continue
            senders |= layout.senders
            covered += parameter.numel() if layout.senders else 0
            found += _of_layout(clean, layout)
        self._senders = frozenset(senders)
        self.coverage = covered / total if total else 1.0
        self.parameter_count = total
        same = senders == {0} and len(plain) == len(found) and not later
        self._plain = (Roster(self.model), plain) if same else None
        return found

    def _watched(self, name: str) -> str | None:
        """Return a parameter's name without wrappers, None if the patterns leave it out."""
        if name not in self._names:
            clean = canonical_name(name)
            self._names[name] = clean if clean in self._patterns else None
        return self._names[name]

    def _layout(self, name: str, parameter: torch.Tensor) -> _Layout | None:
        """Return how a DTensor is spread, None for a plain tensor."""
        known = self._layouts.get(name)
        if known is not None and known.parameter is parameter:
            return known
        if not hasattr(parameter, "placements"):
            # FSDP2 puts the gathered whole in the place of its shard from forward to backward; the shard lives on.
            return known
        layout = _layout_of(parameter, self._rank)
        self._layouts[name] = layout
        return layout

    def _flat(self, prefix: str, module: Any, *, mine: bool) -> Iterator[tuple[str, int, list[Part]]]:
        """Yield name, size and this rank's part of every parameter that FSDP flattened into one."""
        flat = module._handle.flat_param
        local = getattr(flat, "_local_shard", None)
        local = (flat if local is None else local).detach()
        gradients = _flat_gradients(flat)
        for index, (name, shape, info) in enumerate(
            zip(flat._fqns, flat._shapes, flat._shard_param_infos, strict=True)
        ):
            clean = canonical_name(f"{prefix}.{name}" if prefix else name)
            held: list[Part] = []
            if mine and info.in_shard:
                values = local.narrow(0, info.offset_in_shard, info.numel_in_shard)
                where = (shape.numel(),), (info.intra_param_start_idx,)
                find = functools.partial(gradients, index, info)
                held.append(Part(clean, values, *where, find(), not flat.requires_grad, find))
            yield clean, shape.numel(), held


def rank_and_world(launched: tuple[int, int]) -> tuple[int, int]:
    """Return the (rank, world size) of torch's process group, or what the launcher said where there is none."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return launched


def foreign_sharding(model: torch.nn.Module) -> str | None:
    """Name what else has sharded a model, by marks on its parameters: the slices it holds are not known to us."""
    for mark, name in _FOREIGN.items():
        if any(hasattr(parameter, mark) for parameter in model.parameters()):
            return name
    return None


def _has_numbers(parameter: torch.Tensor) -> bool:
    return parameter.is_floating_point() and parameter.device.type != "meta"


# DTensors: FSDP2, tensor parallelism, and both


def _is_sharded(parameter: Any) -> bool:
    return any(_shard_dim(placement) is not None for placement in getattr(parameter, "placements", ()))


def _shard_dim(placement: Any) -> int | None:
    """Return the tensor dimension that a placement shards; None for replicas. Strided ones are no Shard in torch."""
    return placement.dim if hasattr(placement, "dim") else None


def _layout_of(parameter: Any, rank: int) -> _Layout:
    if any(placement.is_partial() for placement in parameter.placements):
        return _Layout(parameter, frozenset())  # the sum of the ranks' tensors: no part of it is a slice
    senders = _mesh_senders(parameter.device_mesh, parameter.placements)
    if rank not in senders:
        return _Layout(parameter, senders)
    return _Layout(parameter, senders, _blocks(parameter))


def _mesh_senders(mesh: Any, placements: Sequence[Any]) -> frozenset[int]:
    """Return the ranks that send: coordinate 0 of replicas, in the mesh that lies at coordinate 0 of its root."""
    ranks = mesh.mesh.numpy()
    root = _root_of(mesh).mesh.numpy()
    where = {int(each): place for place, each in np.ndenumerate(root)}
    if 0 not in where or any(int(each) not in where for each in ranks.flat):
        return frozenset()  # a mesh of its own, beside that of rank 0: whether it holds a replica is not to be seen
    places = np.array([where[int(each)] for each in ranks.flat])
    places[:, (places == places[0]).all(axis=0)] = 0
    first = root[tuple(places.T)].reshape(ranks.shape)
    kept = tuple(slice(None) if _shard_dim(placement) is not None else slice(1) for placement in placements)
    return frozenset(int(each) for each in first[kept].flat)


def _root_of(mesh: Any) -> Any:
    if hasattr(mesh, "_get_root_mesh"):
        return mesh._get_root_mesh()
    resources: Any = getattr(sys.modules.get("torch.distributed.device_mesh"), "_mesh_resources", None)
    return resources.get_root_mesh(mesh) if hasattr(resources, "get_root_mesh") else mesh  # before torch 2.8


def _blocks(parameter: Any) -> list[_Block]:
    """Return the blocks of the whole that this rank holds, by torch's rules for uneven and strided shards."""
    mesh, coordinate = parameter.device_mesh, parameter.device_mesh.get_coordinate()
    kept: list[Indices] = [np.arange(size) for size in parameter.shape]
    sharding = [
        (place, _shard_dim(placement), int(getattr(placement, "split_factor", 1)))
        for place, placement in enumerate(parameter.placements)
    ]
    later = []
    for place, dim, split in sharding:
        if dim is None:
            continue
        behind = [mesh.size(other) for other, its, _ in sharding if other > place and its == dim]
        if split > 1 and math.prod(behind) == split:
            later.append((place, dim))  # FSDP2 over tensor parallelism: it cuts what that has left of the whole
            continue
        mine = [_chunks(piece, mesh.size(place))[coordinate[place]] for piece in _chunks(kept[dim], split)]
        kept[dim] = np.concatenate(mine)
    for place, dim in reversed(later):
        kept[dim] = _chunks(kept[dim], mesh.size(place))[coordinate[place]]
    blocks = []
    for runs in itertools.product(*map(_runs, kept)):
        starts = tuple(int(kept[dim][run.start]) for dim, run in enumerate(runs))
        blocks.append(_Block(starts, runs))
    return blocks


def _chunks(indices: Indices, count: int) -> list[Indices]:
    """Cut as torch.chunk does, with empty pieces at the end where there is too little."""
    size = -(-len(indices) // count)
    return [indices[first * size : (first + 1) * size] for first in range(count)]


def _runs(indices: Indices) -> list[slice]:
    """Return the places of consecutive numbers."""
    if not len(indices):
        return []
    bounds = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
    return [slice(first, behind) for first, behind in itertools.pairwise(bounds)]


def _of_layout(name: str, layout: _Layout) -> list[Part]:
    parameter = layout.parameter
    if not layout.blocks:
        return []
    local = parameter._local_tensor  # `to_local` would record a gradient function
    shape, frozen = tuple(parameter.shape), not parameter.requires_grad
    finds = [functools.partial(_gradient_of, parameter, block) for block in layout.blocks]
    return [
        Part(name, local[block.inside], shape, block.starts, find(), frozen, find)
        for block, find in zip(layout.blocks, finds, strict=True)
    ]


def _gradient_of(parameter: Any, block: _Block) -> torch.Tensor | None:
    gradient = parameter.grad
    same = getattr(gradient, "placements", None) == parameter.placements
    return gradient._local_tensor[block.inside] if same else None


# FSDP1: parameters flattened into one


def _flat_modules(model: torch.nn.Module) -> list[tuple[str, Any]]:
    """Return (name, module) of all FSDP modules that hold parameters; nothing is imported to find them."""
    fsdp = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    if fsdp is None:
        return []
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, fsdp) and getattr(module, "_handle", None) is not None
    ]


def _flat_identities(module: Any) -> set[int]:
    flat = module._handle.flat_param
    views = [*(getattr(flat, "_params", None) or ()), *(getattr(flat, "_shared_params", None) or ())]
    return {id(each) for each in (flat, *views)}


def _spreads(module: Any) -> bool:
    return bool(module._handle.uses_sharded_strategy)


def _flat_senders(module: Any) -> frozenset[int]:
    """Return the ranks that send: rank 0 of what is not sharded, else its group; of hybrid sharding, replica 0."""
    if not _spreads(module):
        return frozenset({0})
    ranks = torch.distributed.get_process_group_ranks(module.process_group)
    return frozenset(ranks) if 0 in ranks else frozenset()


def _flat_gradients(flat: Any) -> Any:
    """Return a function of (index, shard info) that finds the gradient of one parameter's slice."""

    def find(index: int, info: Any) -> torch.Tensor | None:
        views = getattr(flat, "_params", None)
        if views is not None:
            gradient = views[index].grad
            return None if gradient is None else gradient.reshape(-1)
        if flat.grad is None:
            return None
        narrowed: torch.Tensor = flat.grad.narrow(0, info.offset_in_shard, info.numel_in_shard)
        return narrowed

    return find
