"""What runs end with: which result is forecast, which way is better, what the gap is."""

from __future__ import annotations

import math

import pytest

from topowatch_monitor.engine.results import (
    asked_metric,
    commonest_metric,
    gap_of,
    higher_is_better,
    is_held_out,
    is_trained,
    results_of,
    root,
)


@pytest.mark.parametrize(
    ("name", "measures"),
    [
        ("test_accuracy", "accuracy"),
        ("val/acc", "accuracy"),
        ("Final Test Acc", "accuracy"),
        ("eval_loss", "loss"),
        ("loss/val", "loss"),
        ("train.ppl", "perplexity"),
        ("accuracy", "accuracy"),
        ("f1-macro_validation", "f1_macro"),
    ],
)
def test_names_say_what_is_measured(name: str, measures: str) -> None:
    assert root(name) == measures


def test_names_say_on_what_it_is_measured() -> None:
    assert is_held_out("val_loss")
    assert is_held_out("eval/accuracy")
    assert not is_held_out("value")
    assert not is_held_out("val_time_seconds")
    assert not is_held_out("train_accuracy")
    assert is_trained("train_accuracy")
    assert not is_trained("constraint")


def test_what_was_logged_of_held_out_data_is_a_result_unless_the_end_says_otherwise() -> None:
    logged = {"val_accuracy": 0.8, "loss": 0.3, "test_accuracy": 0.1}
    assert results_of({"test_accuracy": 0.9}, logged) == {"val_accuracy": 0.8, "test_accuracy": 0.9}


def test_the_commonest_result_is_forecast_and_training_results_only_without_another() -> None:
    assert commonest_metric([{"train_accuracy": 1.0, "test_accuracy": 0.9}] * 3) == "test_accuracy"
    assert commonest_metric([{"auc": 1.0, "eval_bleu": 0.9}]) == "eval_bleu"
    assert commonest_metric([{"train_loss": 1.0, "zeta": 0.9, "gap": 0.1}]) == "zeta"
    assert commonest_metric([{"train_loss": 1.0}]) == "train_loss"
    assert commonest_metric([{"a": 1.0}, {"a": math.nan, "b": 1.0}, {"b": 2.0}]) == "b"
    one_is_lost = [
        *[{"test_accuracy": 0.9, "train_accuracy": 1.0}] * 19,
        {"test_accuracy": math.nan, "train_accuracy": 1.0},
    ]
    assert commonest_metric(one_is_lost) == "test_accuracy"
    assert commonest_metric([{"val_epoch_speed": 3.0, "val_loss": 0.3}]) == "val_loss"
    assert commonest_metric([]) is None


def test_runs_may_ask_for_a_metric() -> None:
    results = [{"test_accuracy": 0.5, "f1": 0.3}] * 2
    assert asked_metric([{}, {}], results) == "test_accuracy"
    assert asked_metric([{"forecast_metric": "f1"}, {}], results) == "f1"
    assert asked_metric([{"forecast_metric": "tset_accuracy"}, {}], results) == "test_accuracy"


def test_less_is_better_by_name_or_as_runs_say() -> None:
    for name in ("val_loss", "Perplexity", "mse", "word_errors", "val_crossentropy", "fid", "negative_log_likelihood"):
        assert not higher_is_better(name)
    for name in ("test_accuracy", "f1", "bleu", "reward"):
        assert higher_is_better(name)
    assert not higher_is_better("latency", [{"forecast_goal": "min"}, {}])
    assert higher_is_better("my_loss", [{"forecast_goal": "Maximize"}, {"forecast_goal": "nonsense"}])


def test_the_gap_is_how_much_worse_held_out_data_are() -> None:
    assert gap_of({"test_accuracy": 0.8, "train_acc": 0.95}, "test_accuracy", higher=True) == pytest.approx(0.15)
    assert gap_of({"val_loss": 0.8, "train_loss": 0.3}, "val_loss", higher=False) == pytest.approx(0.5)
    assert gap_of({"val_loss": 0.8, "train_loss": 0.3, "gap": 0.4}, "val_loss", higher=False) == 0.4
    assert math.isnan(gap_of({"val_loss": 0.8, "train_accuracy": 0.3}, "val_loss", higher=False))
