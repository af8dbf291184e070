"""Statistics of layers are kept within bounds, and each rule fires on what it is for, names it, and lets go."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.detect import DETECTORS, History, Thresholds
from topowatch_monitor.detect.layers import FIELDS, LayerHistory, lasting, medians
from topowatch_monitor.engine.codec import decode, encode

NAMES = ["conv", "relu", "hidden", "tanh", "head"]
DETECT = {detector.name: detector.detect for detector in DETECTORS}
ON_LAYERS = (
    "vanishing_gradient",
    "exploding_tensor",
    "dead_relu",
    "saturated_activation",
    "weight_update_ratio",
    "unchanged_tensor",
    "all_zero",
    "activation_kurtosis",
    "attention_collapse",
)


def healthy(samples=40, seed=0):
    """Samples × layers × fields of a run that learns: decaying gradients and updates, features that become sparse."""
    rng = np.random.default_rng(seed)
    decay = np.geomspace(1, 1e-3, samples)[:, None]
    shape = (samples, len(NAMES))
    table = {
        "weight_norm": 5 + np.linspace(0, 1, samples)[:, None] * rng.uniform(0, 3, len(NAMES)),
        "update_norm": 5e-3 * decay * np.exp(0.5 * rng.standard_normal(shape)),
        "gradient_norm": decay * np.exp(rng.standard_normal(shape)) * np.array([1e-3, 1, 0.1, 1, 1]),
        "activation_mean": rng.normal(0, 0.1, shape),
        "activation_deviation": np.linspace(1, 5, samples)[:, None] * np.exp(0.2 * rng.standard_normal(shape)),
        "activation_kurtosis": np.linspace(3, 40, samples)[:, None] * np.exp(0.3 * rng.standard_normal(shape)),
        "zero_fraction": np.linspace(0.5, 0.95, samples)[:, None] * np.array([0, 1, 0, 0, 0]),
        "saturated_fraction": np.linspace(0, 0.7, samples)[:, None] * np.ones(len(NAMES)),
        "attention_entropy": np.linspace(0.95, 0.3, samples)[:, None] * rng.uniform(0.8, 1, shape),
    }
    values = np.stack([np.broadcast_to(table[field], shape) for field in FIELDS], axis=2).astype(np.float32)
    for field in ("weight_norm", "update_norm", "gradient_norm"):
        values[:, [1, 3], FIELDS.index(field)] = np.nan
    values[:, [0, 1, 2, 4], FIELDS.index("saturated_fraction")] = np.nan
    values[:, [0, 1, 3, 4], FIELDS.index("attention_entropy")] = np.nan
    return values


def changed(values, field, layer, samples, value):
    values = values.copy()
    values[samples, NAMES.index(layer), FIELDS.index(field)] = value
    return values


def drive(values, name, every=16):
    """Feed samples one by one; return (number of the sample, reason or None) whenever the flag of a rule changes."""
    history, reason, changes = History(), None, []
    for number, sample in enumerate(values):
        history.layers.add(every * number, NAMES, sample)
        before, reason = reason, DETECT[name](history, reason is not None, getattr(Thresholds(), name))
        if (before is None) != (reason is None):
            changes.append((number, reason))
    return changes


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", [*ON_LAYERS, "poor_initialisation"])
def test_rules_are_silent_on_a_run_that_learns_and_without_any_layers(name, seed):
    assert drive(healthy(seed=seed), name) == []
    assert drive(np.full((20, len(NAMES), len(FIELDS)), np.nan, np.float32), name) == []
    assert DETECT[name](History(), False, getattr(Thresholds(), name)) is None


LATE = slice(20, 30)
PLANTED = {
    "vanishing_gradient": ("gradient_norm", "conv", 1e-12, 22),
    "dead_relu": ("zero_fraction", "relu", 1.0, 22),
    "saturated_activation": ("saturated_fraction", "tanh", 0.99, 22),
    "unchanged_tensor": ("update_norm", "hidden", 0.0, 22),
    "all_zero": ("weight_norm", "hidden", 0.0, 22),
    "activation_kurtosis": ("activation_kurtosis", "hidden", 2000.0, 22),
    "attention_collapse": ("attention_entropy", "hidden", 0.01, 22),
    "exploding_tensor": ("activation_deviation", "head", 1e5, 22),
    "weight_update_ratio": ("update_norm", "hidden", 2.0, 24),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ON_LAYERS)
def test_a_rule_fires_once_its_failure_lasts_names_the_layer_and_lets_go(name, seed):
    field, layer, value, at = PLANTED[name]
    changes = drive(changed(healthy(seed=seed), field, layer, LATE, value), name)
    assert len(changes) == 2
    assert changes[0][0] == at
    assert 30 <= changes[1][0] <= 32
    assert repr(layer) in changes[0][1]
    assert changes[1][1] is None


@pytest.mark.parametrize("name", ON_LAYERS)
def test_one_odd_sample_raises_nothing(name):
    field, layer, value, _ = PLANTED[name]
    assert drive(changed(healthy(), field, layer, 25, value), name) == []


def test_outputs_that_are_not_finite_fire_at_once_unless_they_always_were():
    values = changed(healthy(), "activation_mean", "head", slice(20, None), np.nan)
    assert drive(values, "exploding_tensor") == [(20, "outputs of layer 'head' are NaN or infinite")]
    masked = changed(healthy(), "activation_mean", "relu", slice(None), -np.inf)
    assert drive(masked, "exploding_tensor") == []


def test_updates_far_below_those_of_other_layers_fire_and_a_rate_that_goes_to_zero_does_not():
    values = changed(healthy(), "update_norm", "hidden", slice(20, None), 1e-10)
    [(number, reason)] = drive(values, "weight_update_ratio")
    assert number == 24
    assert "'hidden'" in reason
    cooled = healthy()
    cooled[:, :, FIELDS.index("update_norm")] *= np.geomspace(1, 1e-9, 40)[:, None]
    assert drive(cooled, "weight_update_ratio") == []


def test_a_layer_that_always_masks_is_not_broken_by_another_that_was():
    masked = changed(healthy(), "activation_mean", "tanh", slice(None), -np.inf)
    assert [
        number
        for number, _ in drive(changed(masked, "activation_mean", "head", slice(20, 21), np.inf), "exploding_tensor")
    ] == [20, 21]


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("activation_mean", np.nan, "exploding_tensor"),
        ("zero_fraction", 1.0, "all_zero"),
        ("weight_norm", 0.0, "all_zero"),
    ],
)
def test_what_stays_broken_is_told_for_longer_than_samples_are_kept(field, value, name):
    changes = drive(changed(healthy(200), field, "head", slice(20, None), value), name)
    assert len(changes) == 1
    assert 20 <= changes[0][0] <= 22
    assert "'head'" in changes[0][1]


def test_what_a_layer_has_been_outlives_a_rewind_to_a_later_sample():
    """100 samples are more than are kept, so that none of the first 30 is there any more."""
    history, zero = History(), changed(healthy(100), "zero_fraction", "head", slice(30, None), 1.0)
    for number, sample in enumerate(zero):
        history.layers.add(60 + number, NAMES, sample)
    history.discard(60 + 30)
    for number, sample in enumerate(zero[30:40], start=30):
        history.layers.add(60 + number, NAMES, sample)
    assert "'head'" in DETECT["all_zero"](history, False, Thresholds().all_zero)
    history.discard(0)
    assert np.isnan(history.layers.ever("zero_fraction")[0]).all()


def test_frozen_layers_are_neither_vanished_nor_unchanged():
    frozen = changed(healthy(), "gradient_norm", "conv", slice(None), np.nan)
    frozen = changed(frozen, "update_norm", "conv", slice(None), 0.0)
    for name in ("vanishing_gradient", "unchanged_tensor", "weight_update_ratio"):
        assert drive(frozen, name) == []


def test_nothing_is_unchanged_while_the_learning_rate_is_zero():
    still = healthy()
    still[:10, :, FIELDS.index("update_norm")] *= 0
    assert drive(still, "unchanged_tensor") == []


def test_an_unchanged_layer_stays_so_over_steps_at_which_nothing_changes():
    values = changed(healthy(), "update_norm", "hidden", slice(5, None), 0.0)
    values[20:24, :, FIELDS.index("update_norm")] = 0.0
    assert [number for number, _ in drive(values, "unchanged_tensor")] == [7]


def test_layers_that_begin_at_zero_by_design_raise_nothing():
    begun = healthy()
    for field in ("weight_norm", "activation_deviation", "activation_kurtosis"):
        begun = changed(begun, field, "head", slice(0, 2), 0.0)
    begun = changed(begun, "zero_fraction", "head", slice(0, 2), 1.0)
    begun = changed(begun, "update_norm", "head", 1, 1.0)
    for name in (*ON_LAYERS, "poor_initialisation"):
        assert drive(begun, name) == []


def test_the_worst_of_several_layers_is_named_with_their_number():
    values = changed(healthy(), "gradient_norm", "conv", LATE, 1e-9)
    values = changed(values, "gradient_norm", "hidden", LATE, 1e-12)
    assert "layer 'hidden' (the worst of 2)" in drive(values, "vanishing_gradient")[0][1]


@pytest.mark.parametrize(("sizes", "word"), [((1, 1e-5), "die out"), ((1, 1e5), "grow")])
def test_signals_that_die_out_or_grow_at_the_start_fire_and_let_go_once_they_are_usual(sizes, word):
    values = healthy()
    for layer, size in zip(("conv", "head"), sizes, strict=True):
        values = changed(values, "activation_deviation", layer, slice(0, 10), size)
    changes = drive(values, "poor_initialisation")
    assert [number for number, _ in changes] == [0, 10]
    assert word in changes[0][1]
    late = drive(np.concatenate([healthy(10), values]), "poor_initialisation")
    assert late == []


@pytest.mark.parametrize("logged", [True, False])
def test_a_first_loss_far_above_chance_fires_until_the_loss_is_usual(logged):
    history, limits, seen = History(), Thresholds().poor_initialisation, []
    history.chance_loss = 2.3
    for step, loss in enumerate([30.0, 20.0, 9.0, 4.0, 3.0]):
        history.extend("probe_loss", [step], [loss])
        if logged:
            history.extend("loss", [step], [loss])
        seen.append(DETECT["poor_initialisation"](history, bool(seen and seen[-1]), limits))
    assert [reason is None for reason in seen] == [False, False, False, True, True]
    assert "began at 30" in seen[0]
    history.resumed = True
    assert DETECT["poor_initialisation"](history, False, limits) is None


@settings(max_examples=100, deadline=None)
@given(
    samples=st.lists(
        st.tuples(st.integers(0, 40), st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)),
        max_size=30,
    ),
    cut=st.integers(0, 40),
    stop=st.none() | st.integers(0, 40),
)
def test_samples_in_any_order_and_discards_leave_what_a_dict_would(samples, cut, stop):
    """Within the window; the cap on layers keeps those that were named first."""
    history, kept, known = LayerHistory(samples=64, layers=4), {}, []
    for number, (step, names) in enumerate(samples):
        history.add(step, names, np.full((len(names), len(FIELDS)), number, np.float32))
        if step not in kept:
            known += [name for name in names if name not in known]
            kept[step] = {name: number for name in names if name in known[:4]}
    history.discard(cut, stop)
    kept = {step: row for step, row in sorted(kept.items()) if step < cut or (stop is not None and step >= stop)}
    again = LayerHistory.from_state(decode(encode(history.state_dict())))
    for each in (history, again):
        assert each.steps == list(kept)
        assert each.names == known[:4]
        [table] = each.measured("zero_fraction")
        rows = [row for row in kept.values() if row]
        expected = [[row.get(name, np.nan) for name in each.names] for row in rows]
        np.testing.assert_array_equal(table, np.array(expected).reshape(len(rows), len(each.names)))
        newest = each.measured("zero_fraction", last=2)[0]
        np.testing.assert_array_equal(newest, table[-2:])


def test_attention_that_always_was_sharp_and_what_older_clients_send_is_no_collapse():
    for entropy in (0.04, 0.0):
        sharp = changed(healthy(), "attention_entropy", "hidden", slice(None), entropy)
        assert drive(sharp, "attention_collapse") == []


def test_attention_that_sharpens_slowly_has_collapsed_all_the_same():
    values = healthy(400)
    values[:, NAMES.index("hidden"), FIELDS.index("attention_entropy")] = np.geomspace(0.9, 1e-3, 400)
    [(number, reason)] = drive(values, "attention_collapse")
    assert number == pytest.approx(400 * np.log(0.9 / 0.05) / np.log(900), abs=4)
    assert "'hidden'" in reason


def test_a_window_that_is_full_takes_little_more_than_two_megabytes_and_forgets_the_oldest():
    history = LayerHistory()
    names = [f"layer {number}" for number in range(1500)]
    for step in range(200):
        history.add(step, names, np.ones((1500, len(FIELDS)), np.float32))
    history.add(3, names, np.ones((1500, len(FIELDS)), np.float32))
    assert history.steps == list(range(136, 200))
    assert len(history.names) == 1000
    assert sum(sys.getsizeof(row) + (0 if row.base is None else row.base.nbytes) for row in history._rows) < 2.4e6


def test_a_rule_is_asked_anew_only_when_layers_have_changed():
    history, asked = LayerHistory(), []

    def rule(layers, active, thresholds):
        asked.append((active, thresholds))

    for _ in range(3):
        history.once(rule, False, 1)
    history.once(rule, True, 1)
    history.add(1, ["a"], np.ones((1, len(FIELDS)), np.float32))
    history.once(rule, False, 1)
    history.discard(0)
    history.once(rule, False, 1)
    assert asked == [(False, 1), (True, 1), (False, 1), (False, 1)]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_medians_are_those_of_numpy_without_what_was_not_measured(data):
    numbers = st.floats(-1e6, 1e6, allow_subnormal=False) | st.just(np.nan)
    rows, columns = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 4))
    values = np.array(data.draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns)), dtype=float)
    values = values.reshape(rows, columns)
    known = [column[~np.isnan(column)] for column in values.T]
    expected = [np.median(column) if len(column) else np.nan for column in known]
    np.testing.assert_allclose(medians(values), expected)


@given(st.lists(st.booleans(), max_size=6), st.integers(1, 6))
def test_a_condition_lasts_if_it_held_at_each_of_the_last_samples(held, samples):
    column = np.array(held, dtype=bool).reshape(-1, 1)
    assert lasting(column, samples)[0] == (len(held) >= samples and all(held[-samples:]))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rules_bear_whatever_numbers_a_client_sends(data):
    """NaN, infinities, zeros and negative norms make no warning, let alone an exception."""
    odd = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1.0, 3e38, 1e-38])
    history = History()
    history.chance_loss = data.draw(st.sampled_from([None, 0.7, 2.3, 1e9]))
    count = data.draw(st.integers(1, 20))
    for step in range(count):
        values = data.draw(st.lists(odd, min_size=2 * len(FIELDS), max_size=2 * len(FIELDS)))
        history.layers.add(8 * step, ["a", "b"], np.array(values, np.float32).reshape(2, len(FIELDS)))
    for name in (*ON_LAYERS, "poor_initialisation"):
        for active in (False, True):
            DETECT[name](history, active, getattr(Thresholds(), name))
