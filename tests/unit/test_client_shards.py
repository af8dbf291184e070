"""Which slices of a sharded model a rank sends, on real meshes and DTensors of a process group that talks to nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

from topowatch_client.pulse import Pulse
from topowatch_client.scalars import ScalarBuffer, Series
from topowatch_client.shards import Patterns, Shards
from topowatch_client.sketch import FoldSketch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORLD = 8


@pytest.fixture(autouse=True)
def no_group_is_left() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def as_rank(rank: int, world: int) -> None:
    """Go on as another rank. What torch remembers of operations on equal meshes holds the coordinates of the last."""
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    _clear_sharding_prop_cache()


def every_rank(make: Callable[[], nn.Module], world: int = WORLD) -> Iterator[tuple[int, Shards]]:
    """Yield (rank, its shards) of the model that `make` builds on every rank in turn."""
    for rank in range(world):
        as_rank(rank, world)
        yield rank, Shards(make(), rank)


def summed(make: Callable[[], nn.Module]) -> tuple[torch.Tensor, set[int]]:
    """Add up what the ranks send; return the sum and the ranks. Whoever sends knows all others who do."""
    fold = FoldSketch()
    total, sending, known = torch.zeros(fold.dim), set(), []
    for rank, shards in every_rank(make):
        held = shards.held()
        if rank in shards.senders:
            sending.add(rank)
            known.append(shards.senders)
            assert shards.coverage == 1.0
        else:
            assert not held
        total += fold.matrix(held).sum(0)
    assert all(each == sorted(sending) for each in known)
    return total, sending


class Holder(nn.Module):
    """A module of given parameters."""

    def __init__(self, **parameters: torch.Tensor) -> None:
        super().__init__()
        for name, values in parameters.items():
            self.register_parameter(name, nn.Parameter(values))


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def full() -> DeviceMesh:
    return init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("replicate", "shard", "tp"))


CASES: list[tuple[str, tuple[int, ...], list[Any], set[int]]] = [
    ("rows", (17, 5), [Replicate(), Shard(0), Replicate()], {0, 2}),
    ("columns", (6, 13), [Replicate(), Replicate(), Shard(1)], {0, 1}),
    ("fewer rows than ranks", (1, 9), [Shard(0), Shard(0), Shard(0)], set(range(8))),
    ("rows of rows", (11, 3), [Replicate(), Shard(0), Shard(0)], {0, 1, 2, 3}),
    ("rows and columns", (7, 9), [Replicate(), Shard(0), Shard(1)], {0, 1, 2, 3}),
    ("all three dimensions", (5, 6, 7), [Shard(2), Shard(0), Shard(1)], set(range(8))),
    ("FSDP over tensor parallel", (8, 3), [Replicate(), _StridedShard(0, split_factor=2), Shard(0)], {0, 1, 2, 3}),
    ("strides that leave holes", (12, 3), [Replicate(), _StridedShard(0, split_factor=3), Replicate()], {0, 2}),
    ("replicas", (4, 4), [Replicate(), Replicate(), Replicate()], {0}),
]


@pytest.mark.parametrize(("shape", "placements", "senders"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_the_parts_of_all_ranks_tile_the_parameter(
    shape: tuple[int, ...], placements: list[Any], senders: set[int]
) -> None:
    whole = numbers(*shape)
    total, sending = summed(lambda: Holder(w=distribute_tensor(whole, full(), placements, src_data_rank=None)))
    assert sending == senders
    torch.testing.assert_close(total, FoldSketch().slice("w", whole), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [8, 9, 13, 50])
def test_what_fsdp_cuts_of_the_shards_of_tensor_parallelism_tiles_the_parameter(rows: int) -> None:
    """FSDP2 cuts the local shard of each tensor-parallel rank, evenly or not."""
    whole = numbers(rows, 3)

    def make() -> Holder:
        mesh = init_device_mesh("cpu", (4, 2), mesh_dim_names=("dp", "tp"))
        cut = distribute_tensor(whole, mesh["tp"], [Shard(0)], src_data_rank=None).to_local()
        size = -(-len(cut) // 4)
        first = mesh.get_local_rank("dp") * size
        spec = (mesh, [_StridedShard(0, split_factor=2), Shard(0)])
        local = cut[first : first + size].contiguous()
        return Holder(w=DTensor.from_local(local, *spec, shape=whole.shape, stride=whole.stride(), run_check=False))

    total, sending = summed(make)
    assert sending == set(range(8))
    torch.testing.assert_close(total, FoldSketch().slice("w", whole), rtol=1e-5, atol=1e-5)


def test_meshes_side_by_side_are_replicas_and_the_one_through_rank_0_sends() -> None:
    """One parameter on the tensor-parallel mesh, one on the sharding mesh, one on no mesh at all."""
    a, b, c = numbers(6, 4), numbers(9, 2), numbers(5)

    def make() -> Holder:
        mesh = full()
        return Holder(
            a=distribute_tensor(a, mesh["tp"], [Shard(1)], src_data_rank=None),
            b=distribute_tensor(b, mesh["shard"], [Shard(0)], src_data_rank=None),
            c=c,
        )

    total, sending = summed(make)
    assert sending == {0, 1, 2}
    expected = FoldSketch().model([("a", a), ("b", b), ("c", c)])
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)


def test_flattened_dimensions_of_a_mesh_are_followed_to_their_root() -> None:
    whole = numbers(10, 3)

    def make() -> Holder:
        mesh = full()["replicate", "shard"]._flatten("dp")
        return Holder(w=distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None))

    total, sending = summed(make)
    assert sending == {0, 2, 4, 6}
    torch.testing.assert_close(total, FoldSketch().slice("w", whole), rtol=1e-5, atol=1e-5)


def test_a_mesh_of_its_own_beside_that_of_rank_0_is_left_out_and_lowers_the_coverage() -> None:
    def make() -> Holder:
        ranks = list(range(4)) if dist.get_rank() < 4 else list(range(4, 8))
        return Holder(w=distribute_tensor(numbers(8, 2), DeviceMesh("cpu", ranks), [Shard(0)], src_data_rank=None))

    found = {rank: (shards.senders, shards.coverage) for rank, shards in every_rank(make)}
    assert found[3] == ([0, 1, 2, 3], 1.0)
    assert found[5] == ([0], 0.0)


def test_a_shard_that_fsdp_hides_behind_its_gathered_whole_is_still_found() -> None:
    """From forward to backward FSDP2 puts plain whole tensors in the place of its shards."""
    whole = numbers(9, 4)
    for rank in range(2):
        as_rank(rank, 2)
        mesh = init_device_mesh("cpu", (2,))
        model = Holder(w=distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None))
        shards = Shards(model, rank)
        (before,) = shards.held()
        model.w = nn.Parameter(whole)
        (after,) = shards.held()
        assert torch.equal(before.values, after.values)
        assert after.starts == ((0, 0), (5, 0))[rank]


def test_the_pulse_finds_the_gradient_of_each_step_in_what_is_sharded() -> None:
    as_rank(0, 2)
    mesh = init_device_mesh("cpu", (2,))
    model = Holder(w=distribute_tensor(numbers(8, 4), mesh, [Shard(0)], src_data_rank=None))
    pulse = Pulse()
    pulse.choose(0, Shards(model, 0).held())
    gradients = [numbers(8, 4), 2 * numbers(8, 4)]
    for step, gradient in enumerate(gradients, 1):
        model.w.grad = distribute_tensor(gradient, mesh, [Shard(0)], src_data_rank=None)
        pulse.beat(step)
    _, found = pulse.take()
    assert found is not None
    torch.testing.assert_close(found[:, 0], torch.stack([gradient[:4].norm() for gradient in gradients]))


def test_parameters_that_are_added_or_replaced_later_are_found() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    shards = Shards(model)
    model.append(nn.Linear(2, 2, bias=False))
    assert [each.name for each in shards.held()] == ["0.weight", "0.bias", "1.weight"]
    model[0] = nn.Linear(5, 2)
    assert shards.held()[0].shape == (2, 5)
    assert shards.coverage == 1.0


def test_a_parameter_may_get_more_dimensions_after_it_was_found() -> None:
    """As a scale does that its first use makes one a channel."""
    model = Holder(w=torch.tensor(1.0))
    shards = Shards(model)
    shards.held()
    model.w.data = torch.arange(3.0)
    (part,) = shards.held()
    rows = FoldSketch().matrix([part])
    torch.testing.assert_close(rows[0], FoldSketch().slice("w", torch.arange(3.0)))


def test_tied_parameters_are_read_once_and_frozen_ones_are_known() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    assert [(each.name, each.frozen) for each in Shards(model).held()] == [
        ("0.weight", False),
        ("0.bias", False),
        ("1.bias", True),
    ]


def test_patterns_choose_parameters_by_their_names_without_wrappers() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))
    wrapped = nn.Module()
    wrapped.module = model
    shards = Shards(wrapped, 0, Patterns(("1.*",), ("*.bias",)))
    assert [each.name for each in shards.held()] == ["1.weight"]
    assert shards.coverage == pytest.approx(8 / 20)
    assert shards.parameter_count == 20
    assert "0.weight" not in Patterns(exclude=("0.*",))
    assert "1.weight" in Patterns(exclude=("0.*",))


def test_a_logged_dtensor_is_taken_where_every_rank_has_it_whole() -> None:
    as_rank(0, 2)
    mesh = init_device_mesh("cpu", (2,))
    buffer = ScalarBuffer()
    buffer.put(3, "loss", distribute_tensor(torch.tensor(0.5), mesh, [Replicate()], src_data_rank=None))
    assert buffer.take().series([]) == [Series("loss", [3], [0.5])]
    spread = DTensor.from_local(torch.tensor(0.5), mesh, [Partial()])
    with pytest.raises(TypeError, match="full_tensor"):
        buffer.put(4, "loss", spread)
