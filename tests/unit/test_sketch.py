"""The fold sketch: linear over any cut of the weights, the same everywhere, and faithful to distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_client import batches
from topowatch_client.sketch import DIMENSION, FoldSketch, Part, canonical_name, signs, splitmix64
from weight_differences import BARS, differences, training_path

if TYPE_CHECKING:
    from collections.abc import Iterator

TRIALS = 300


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Kernels this small only wait for one another on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def slow_sketch(name: str, values: torch.Tensor, seed: int = 0, dim: int = DIMENSION) -> np.ndarray:
    """The definition, element by element: every element of a one-hot tensor shows its sign and its bucket."""
    fold = FoldSketch(seed, dim)
    flat = values.reshape(-1)
    total = np.zeros(dim)
    for index, value in enumerate(flat.tolist()):
        one = fold.slice(name, torch.ones(1), offset=index)
        assert one.abs().sum() == 1
        assert one[index % dim].abs() == 1
        total[index % dim] += float(one[index % dim]) * value
    return total


def test_equals_its_definition_element_by_element() -> None:
    values = torch.randn(37, 11)
    np.testing.assert_allclose(
        FoldSketch(dim=101).slice("w", values).numpy(), slow_sketch("w", values, dim=101), atol=1e-5
    )


@settings(deadline=None, max_examples=40)
@given(data=st.data(), size=st.integers(1, 300_000))
def test_slices_add_up_to_the_whole(data: st.DataObject, size: int) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=5)))
    values = torch.randn(size, generator=torch.Generator().manual_seed(size))
    fold = FoldSketch()
    parts = torch.zeros(DIMENSION)
    for first, behind in zip([0, *cuts], [*cuts, size], strict=True):
        parts += fold.slice("layer.weight", values[first:behind], offset=first)
    torch.testing.assert_close(parts, fold.slice("layer.weight", values), atol=1e-3, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), shape=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_boxes_that_tile_a_parameter_add_up_to_the_whole(data: st.DataObject, shape: list[int]) -> None:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))
    fold = FoldSketch(dim=31)
    parts = torch.zeros(31)
    edges = [sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    counts = [len(edge) - 1 for edge in edges]
    for number in np.ndindex(*counts):
        starts = [edge[i] for edge, i in zip(edges, number, strict=True)]
        ends = [edge[i + 1] for edge, i in zip(edges, number, strict=True)]
        block = values[tuple(slice(s, e) for s, e in zip(starts, ends, strict=True))]
        parts += fold.box("w", block, shape, starts)
    torch.testing.assert_close(parts, fold.slice("w", values), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_boxes_of_a_large_tensor_add_up_along_any_dimension(dimension: int) -> None:
    """Large enough that a box is pasted in several chunks and, along the last dimension, index by index."""
    values = torch.randn(3, 1200, 1100)
    fold = FoldSketch()
    parts = torch.zeros(DIMENSION)
    start = 0
    for block in values.tensor_split(2, dimension):
        starts = [0, 0, 0]
        starts[dimension] = start
        parts += fold.box("w", block, values.shape, starts)
        start += block.shape[dimension]
    torch.testing.assert_close(parts, fold.slice("w", values), atol=2e-2, rtol=1e-4)


def test_is_linear() -> None:
    fold = FoldSketch()
    a, b = torch.randn(5000), torch.randn(5000)
    torch.testing.assert_close(
        fold.slice("w", 2 * a - b), 2 * fold.slice("w", a) - fold.slice("w", b), atol=1e-4, rtol=0
    )


def test_depends_on_name_and_seed_only() -> None:
    values = torch.randn(4000)
    same = FoldSketch(3).slice("w", values)
    assert torch.equal(FoldSketch(3).slice("w", values), same)
    assert not torch.allclose(FoldSketch(4).slice("w", values), same)
    assert not torch.allclose(FoldSketch(3).slice("v", values), same)


def test_known_numbers_never_change() -> None:
    """Sketches of different client versions, platforms and torch versions are compared with one another."""
    assert splitmix64(np.array([0, 1], dtype=np.uint64)).tolist() == [16294208416658607535, 10451216379200822465]
    assert signs(7, 12).tolist() == [1, 1, 1, -1, 1, -1, 1, 1, 1, -1, 1, 1]
    fold = FoldSketch(seed=5, dim=11).slice("layer.weight", torch.arange(4000, dtype=torch.float32))
    assert fold.tolist() == [-20196, 53230, 44512, -76272, -74254, 32594, 5568, 18494, -14969, -48420, -52633]


@pytest.mark.parametrize(
    "name", ["module.a.weight", "_orig_mod.a.weight", "module._orig_mod.a.weight", "a._orig_mod.weight"]
)
def test_wrappers_do_not_change_names(name: str) -> None:
    values = torch.randn(300)
    assert canonical_name(name) == "a.weight"
    assert torch.equal(FoldSketch().slice(name, values), FoldSketch().slice("a.weight", values))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_read_as_they_are(dtype: torch.dtype) -> None:
    values = torch.randn(200_000).to(dtype)
    torch.testing.assert_close(
        FoldSketch().slice("w", values), FoldSketch().slice("w", values.float()), atol=1e-3, rtol=1e-5
    )


def test_memory_layout_does_not_matter() -> None:
    values = torch.randn(64, 96, 15, 15)
    changed = values.to(memory_format=torch.channels_last)
    assert not changed.is_contiguous()
    torch.testing.assert_close(FoldSketch().slice("w", changed), FoldSketch().slice("w", values), atol=1e-2, rtol=1e-5)


def test_rows_of_the_matrix_add_up_to_the_model() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(300, 700), torch.nn.BatchNorm1d(700), torch.nn.Linear(700, 3))
    fold = FoldSketch()
    parameters = list(model.named_parameters())
    rows = fold.matrix([Part.whole(name, values) for name, values in parameters])
    assert rows.shape == (len(parameters), DIMENSION)
    torch.testing.assert_close(rows.sum(0), fold.model(model.named_parameters()), atol=1e-4, rtol=1e-5)
    for row, (name, values) in zip(rows, parameters, strict=True):
        torch.testing.assert_close(row, fold.slice(name, values), atol=1e-5, rtol=1e-5)
        if values.numel() <= DIMENSION:
            torch.testing.assert_close(row.norm(), values.norm())


@given(st.data())
def test_small_parts_that_are_folded_together_are_what_they_are_alone(data: st.DataObject) -> None:
    """Slices of any parameter, across the bounds of rows and of windows, among parts too large to be packed."""
    fold, dim = FoldSketch(dim=13), 13
    whole = 256 * dim * 2 + 50
    parts = []
    for number in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.sampled_from([0, 5, 256 * dim - 3, 256 * dim, 2 * 256 * dim - 30]))
        count = data.draw(st.sampled_from([0, 1, 12, 13, 14, 40, 9 * dim]))
        values = torch.randn(min(count, whole - start), generator=torch.Generator().manual_seed(number))
        parts.append(Part(f"w{number % 3}", values, (whole,), (start,)))
    for _ in range(2):  # with the buffer made anew, and kept
        rows = fold.matrix(parts)
        for row, part in zip(rows, parts, strict=True):
            torch.testing.assert_close(row, fold.slice(part.name, part.values, part.starts[0]), atol=1e-5, rtol=1e-5)


def test_more_small_parts_than_the_pack_holds_are_folded_all() -> None:
    fold = FoldSketch(dim=11)
    parts = [Part.whole(f"w{number}", torch.randn(30)) for number in range(400)]
    rows = fold.matrix(parts)
    torch.testing.assert_close(rows, torch.stack([fold.slice(part.name, part.values) for part in parts]))


def test_the_kernel_of_accelerators_agrees_with_that_of_the_cpu() -> None:
    fold = FoldSketch()
    values = torch.randn(fold._block * 3)
    result = torch.zeros(DIMENSION)
    fold._gather(fold._windows("w", 3), values, result)
    torch.testing.assert_close(result, fold.slice("w", values), atol=1e-2, rtol=1e-4)


def test_an_empty_tensor_is_zero_and_gradients_are_not_recorded() -> None:
    assert not FoldSketch().slice("w", torch.zeros(0)).any()
    assert not FoldSketch().slice("w", torch.randn(5, requires_grad=True)).requires_grad
    assert FoldSketch().slice("w", torch.tensor(2.0)).abs().sum() == 2


@pytest.mark.parametrize(
    ("shape", "starts"), [((4, 4), (3, 0)), ((4, 4), (-1, 0)), ((4,), (0,)), ((2, 2, 2), (0, 0, 0))]
)
def test_a_box_outside_its_parameter_is_refused(shape: tuple[int, ...], starts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"lie within|differ in dimensions"):
        FoldSketch().box("w", torch.ones(2, 2), shape, starts)
    with pytest.raises(ValueError, match="element 0"):
        FoldSketch().slice("w", torch.ones(2), offset=-1)


@pytest.mark.parametrize(("kind", "bar"), BARS.items())
def test_distances_survive_whatever_the_difference_looks_like(kind: str, bar: float) -> None:
    """The 99th percentile of the relative error of ‖Δ‖, over differences and names, stays within the bar."""
    random = torch.Generator().manual_seed(1)
    fold = FoldSketch()
    errors = []
    for trial in range(TRIALS):
        delta = differences(kind, random)
        errors.append(abs(float(fold.slice(f"block.{trial}.weight", delta).norm() / delta.norm()) - 1))
    assert np.quantile(errors, 0.99) <= bar


def test_distances_along_a_real_path_survive() -> None:
    """Consecutive weights of a small network in training, all parameters together, under 40 seeds."""
    path = training_path(10)
    errors = []
    for seed in range(40):
        fold = FoldSketch(seed)
        points = [fold.model(weights.items()) for weights in path]
        for step in range(10):
            true = torch.sqrt(sum((path[step + 1][name] - path[step][name]).square().sum() for name in path[0]))
            errors.append(abs(float((points[step + 1] - points[step]).norm() / true) - 1))
    assert np.quantile(errors, 0.99) <= 0.08


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 900), st.integers(1, 40)), min_size=1, max_size=6),
    first=st.integers(0, 500),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    slots=st.sampled_from([1, 3, 16]),
)
def test_together_parts_get_the_rows_that_they_get_one_by_one(
    shapes: list[tuple[int, int]], first: int, dtype: torch.dtype, slots: int
) -> None:
    """As on an accelerator, in any batches; shards of rows, and one that does not lie in one piece."""
    torch.manual_seed(0)
    fold = FoldSketch(seed=5, dim=7)
    parts = [
        Part(f"w{n}", torch.randn(shape).to(dtype), (first * (n % 2) + shape[0], shape[1]), (first * (n % 2), 0))
        for n, shape in enumerate(shapes)
    ]
    parts.append(Part("scattered", torch.randn(9, 300).t(), (300, 9), (0, 0)))
    expected = fold.matrix(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "SLOTS", slots)
        for _ in range(2):  # the second time with what was planned the first
            rows = torch.zeros(len(parts), fold.dim)
            left = fold._fold_together(parts, range(len(parts)), rows)
            assert left == [n for n, part in enumerate(parts) if n == len(shapes) or not part.values.numel()]
            expected[left] = 0
            scale = float(expected.abs().max()) + 1e-9
            torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5 * scale)
