"""What a run's state says of critical steps, slices and gradients, and that it survives rewinds and snapshots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.gradient_flow import WINDOW, GradientFlow
from topowatch_monitor.engine.run_state import RunState
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

KEY = run_pb2.RunKey(tenant="t", group="g", run="r")


def opened(incarnation: int = 1, start: int = 0) -> tuple[int, bytes]:
    descriptor = run_pb2.RunDescriptor(key=KEY, incarnation=incarnation, start_step=start, contributing_ranks=1)
    return LogKind.RUN_OPENED, log_pb2.RunOpened(descriptor=descriptor).SerializeToString()


def stored(item: sample_pb2.Item) -> tuple[int, bytes]:
    record = log_pb2.StoredItem(key=KEY, incarnation=1, item=item.SerializeToString())
    return LogKind.STORED_ITEM, record.SerializeToString()


def point(step: int, salt: int = 0) -> np.ndarray:
    return np.random.default_rng([step, salt]).standard_normal(7).astype("<f4")


def sample(step: int) -> sample_pb2.Item:
    item = sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=step))
    item.sample.weights.values = point(step).tobytes()
    return item


def run_of(*records: tuple[int, bytes]) -> RunState:
    run = RunState("t", "g", "r")
    for kind, payload in records:
        run.apply(kind, payload)
    return run


def critical(step: int, multiple: float) -> sample_pb2.Item:
    item = sample(step)
    item.sample.curvature.critical_step = multiple
    return item


def sliced(step: int, values: np.ndarray, *, centre: int, request: str = "q") -> sample_pb2.Item:
    item = sample(step)
    plane = item.sample.loss_slice
    plane.rows, plane.columns = values.shape
    plane.values, plane.extent, plane.step, plane.request = values.astype("<f4").tobytes(), 1.0, centre, request
    return item


def refused(step: int, why: str, request: str) -> sample_pb2.Item:
    item = sample(step)
    item.sample.loss_slice.problem, item.sample.loss_slice.request = why, request
    return item


def bowl(height: float) -> np.ndarray:
    axis = np.linspace(-1, 1, 5)
    return height * (axis[:, None] ** 2 + axis**2)


def test_the_ratio_is_the_inverse_of_the_critical_step() -> None:
    run = run_of(opened(), stored(critical(10, 4.0)), stored(sample(20)))
    assert run.view()["critical_lr_ratio"] == 0.25
    assert run_of(opened(), stored(sample(20))).view()["critical_lr_ratio"] is None


@pytest.mark.parametrize(("told", "known"), [(3.5, 3.5), (-2.0, -2.0), (0.0, None), (float("nan"), None)])
def test_the_curvature_along_the_update_is_told_where_it_is_known(told: float, known: float | None) -> None:
    item = critical(10, 4.0)
    item.sample.curvature.secant = told
    assert run_of(opened(), stored(item)).view()["secant_curvature"] == known


def test_a_slice_brings_its_basin_and_a_refusal_leaves_the_numbers() -> None:
    run = run_of(opened(), stored(sliced(20, bowl(2.0), centre=12)))
    view = run.view()["landscape"]
    assert view is not None
    assert (view["step"], view["request"], view["side"], view["problem"]) == (12, "q", 5, "")
    assert view["basin_depth"] == view["escape_height"] == pytest.approx(2)
    assert view["values"] == pytest.approx(bowl(2.0).ravel())
    run = run_of(opened(), stored(sliced(20, bowl(2.0), centre=12)), stored(refused(24, "too large", "r")))
    view = run.view()["landscape"]
    assert view is not None
    assert (view["step"], view["request"], view["problem"]) == (12, "r", "too large")
    assert view["basin_depth"] == pytest.approx(2)


def test_a_loss_of_minus_infinity_somewhere_costs_nothing_of_the_sample() -> None:
    values = bowl(2.0)
    values[0, 0] = -np.inf
    item = sliced(20, values, centre=12)
    run = run_of(opened(), stored(item))
    assert run.view()["step"] == 20
    landscape = run.view()["landscape"]
    assert landscape is not None
    assert (landscape["side"], landscape["basin_depth"]) == (5, pytest.approx(2))


def test_a_slice_that_is_damaged_is_refused() -> None:
    even = sliced(20, np.zeros((4, 5)), centre=12)
    late = sliced(20, bowl(1.0), centre=21)
    short = sliced(20, bowl(1.0), centre=12)
    short.sample.loss_slice.rows = 3
    thin = sliced(20, np.zeros((1, 5)), centre=12)
    run = run_of(opened(), *(stored(item) for item in (even, late, short, thin)))
    assert run.view()["rejected"] == 4
    assert run.view()["landscape"] is None


def test_a_rewind_forgets_what_was_seen_after_its_start() -> None:
    records = [opened(), stored(critical(10, 4.0)), stored(critical(20, 8.0)), stored(sliced(24, bowl(1.0), centre=22))]
    run = run_of(*records, opened(2, start=15))
    assert run.view()["critical_lr_ratio"] == 0.25
    assert run.view()["landscape"] is None


def test_a_snapshot_keeps_all_of_it() -> None:
    items = [critical(step, 2.0 + step) for step in range(4)]
    for item in items:
        item.sample.gradient.values = point(item.sample.step, salt=3).tobytes()
    records = [opened(), *(stored(item) for item in items), stored(sliced(9, bowl(1.0), centre=5))]
    run = run_of(*records)
    again = RunState.from_state(decode(encode(run.state_dict())))
    assert again.view() == run.view()
    assert run.view()["gradient_flow_consistency"] is not None
    more = critical(12, 2.0)
    more.sample.gradient.values = point(12, salt=3).tobytes()
    for each in (run, again):
        each.apply(*stored(more))
    assert again.view() == run.view()


def descend(steps: int, rate: float, noise: float, seed: int):
    """Gradient descent on a parabola, with noise added to the step and not to the gradient."""
    rng = np.random.default_rng(seed)
    curvature, weights = rng.uniform(0.1, 1.0, 30), rng.standard_normal(30)
    for step in range(steps):
        gradient = curvature * weights
        weights = weights - rate * (gradient + noise * rng.standard_normal(30))
        yield step, weights.astype(np.float32), gradient.astype(np.float32)


@given(st.integers(2, 30), st.floats(0.01, 1.0), st.integers(0, 1000))
def test_gradient_descent_of_which_every_step_is_seen_is_consistent(steps: int, rate: float, seed: int) -> None:
    flow = GradientFlow()
    found = [flow.add(*each) for each in descend(steps, rate, 0.0, seed)]
    assert found[0] is None
    assert found[1:] == pytest.approx([1.0] * (steps - 1), abs=1e-3)


def test_ascent_is_the_opposite_and_noise_takes_it_away() -> None:
    up, lost = GradientFlow(), GradientFlow()
    ascent = [up.add(step, -weights, gradient) for step, weights, gradient in descend(WINDOW, 0.1, 0.0, 0)]
    random = [lost.add(*each) for each in descend(WINDOW, 0.1, 30.0, 0)]
    assert ascent[-1] == pytest.approx(-1.0, abs=1e-3)
    assert random[-1] is not None
    assert abs(random[-1]) < 0.7


def test_a_run_that_stands_still_has_no_consistency() -> None:
    flow, still = GradientFlow(), np.ones(4, dtype=np.float32)
    assert [flow.add(step, still, still) for step in range(3)] == [None] * 3


def test_a_slice_that_comes_late_leaves_the_newer_one_alone() -> None:
    bowl = np.add.outer(np.linspace(-1, 1, 5) ** 2, np.linspace(-1, 1, 5) ** 2)
    run = run_of(opened(), stored(sliced(40, bowl, centre=39, request="new")))
    before = run.view()["landscape"]
    run.apply(*stored(sliced(20, 9 * bowl, centre=19, request="old")))
    assert run.view()["landscape"] == before
    assert run.history["basin_depth"].steps.tolist() == [40]
