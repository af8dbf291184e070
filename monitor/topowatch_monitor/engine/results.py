"""What runs end with: which result of a group is forecast, which way is better, and how far it lies from training."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Label by which runs say how many steps they will take.
TOTAL_LABEL = "total_steps"
# Label by which they say what they are to reach.
TARGET_LABEL = "forecast_target"
# Labels by which they say what to forecast of them, and whether more of it ("max") or less ("min") is better.
METRIC_LABEL, GOAL_LABEL = "forecast_metric", "forecast_goal"
GOALS = {"max": True, "maximize": True, "min": False, "minimize": False}
PREFERRED = ("test_accuracy", "val_accuracy")
GAP = "generalization_gap"  # as it is called in what is told
GAPS = (GAP, "generalisation_gap", "gap")
_HELD_OUT = frozenset({"val", "valid", "validation", "test", "eval", "evaluation", "dev", "heldout", "holdout"})
_TRAINED = frozenset({"train", "training"})
_SAYS_NOTHING = frozenset({"final", "last", "best", "epoch", "mean", "avg"})
_ALIASES = {"acc": "accuracy", "top1": "accuracy", "ppl": "perplexity", "err": "error"}
_KNOWN = frozenset(
    {"accuracy", "loss", "f1", "auc", "auroc", "error", "perplexity", "bleu", "rouge", "map", "iou", "reward"}
)
_LOWER_IS_BETTER = frozenset(
    (
        *("nll", "bpb", "bpc", "mse", "mae", "rmse", "mape", "msle", "rmsle", "l1", "l2", "wer", "cer", "eer", "fid"),
        *("gap", "kl", "ce", "bce", "xent", "ent", "ece", "brier", "regret", "negative"),
    )
)
_LOWER_ENDINGS = ("loss", "losses", "error", "errors", "perplexity", "perplexities", "entropy", "crossent", "distance")
# What is measured on held-out data, but not of the model.
_NO_RESULTS = frozenset(
    ["time", "duration", "seconds", "second", "runtime", "step", "steps", "count", "size", "samples"]
)


def number_of(labels: Mapping[str, str], name: str) -> float | None:
    """A label as a finite number; None where it is none, or is not there."""
    try:
        told = float(labels[name])
    except (KeyError, ValueError):
        return None
    return told if math.isfinite(told) else None


def _words(name: str) -> list[str]:
    return [_ALIASES.get(word, word) for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def root(name: str) -> str:
    """What a result measures, whatever it is measured on: `accuracy` of `test_accuracy`, `val/acc` and `train_acc`."""
    return "_".join(word for word in _words(name) if word not in _HELD_OUT | _TRAINED | _SAYS_NOTHING)


def is_held_out(name: str) -> bool:
    """Whether a scalar is measured on data that the run does not learn from, by its name, as that of `val_loss`."""
    words = _words(name)
    return not _HELD_OUT.isdisjoint(words) and _NO_RESULTS.isdisjoint(words)


def is_trained(name: str) -> bool:
    """Whether a scalar is measured on the training data, by its name."""
    return not _TRAINED.isdisjoint(_words(name))


def results_of(given: Mapping[str, float], latest: Mapping[str, float]) -> dict[str, float]:
    """What a run ended with.

    Args:
        given: to `Watch.finish`.
        latest: newest values of what it logged; what is measured on held-out data counts as a result.
    """
    return {**{name: value for name, value in latest.items() if is_held_out(name)}, **given}


def commonest_metric(results: Sequence[Mapping[str, float]]) -> str | None:
    """The result that is forecast where nobody says which, among those that most runs have, or half as many.

    What is held out comes before what may be, that before what is measured on the training data, and gaps; then those
    in PREFERRED, then known measures, then what more runs have, then the first by name.
    """
    counts = _counts(results)
    common = [name for name, count in counts.items() if 2 * count > max(counts.values())]

    def order(name: str) -> tuple[bool, bool, int, bool, int, str]:
        preferred = PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)
        known = not _KNOWN.isdisjoint(_words(name))
        return is_trained(name) or name in GAPS, not is_held_out(name), preferred, not known, -counts[name], name

    return min(common, key=order, default=None)


def asked_metric(labels: Iterable[Mapping[str, str]], results: Sequence[Mapping[str, float]]) -> str | None:
    """The result that most runs of those that say so ask for by METRIC_LABEL, where half of all have it.

    Else the commonest one: a label that is mistyped in one run decides nothing.
    """
    asked, counts = Counter(each[METRIC_LABEL] for each in labels if METRIC_LABEL in each), _counts(results)
    known = [name for name in asked if 2 * counts[name] >= len(results)]
    return min(known, key=lambda name: (-asked[name], name)) if known else commonest_metric(results)


def _counts(results: Sequence[Mapping[str, float]]) -> Counter[str]:
    """How many runs have a finite result, by name."""
    return Counter(name for each in results for name, value in each.items() if math.isfinite(value))


def higher_is_better(metric: str, labels: Iterable[Mapping[str, str]] = ()) -> bool:
    """Whether more of a metric is better: as most runs say by GOAL_LABEL, else by its name.

    Less is better of losses, errors, perplexities and what is named after them.
    """
    goals = Counter(GOALS[goal] for each in labels if (goal := each.get(GOAL_LABEL, "").lower()) in GOALS)
    if goals:
        return goals[True] >= goals[False]
    return not any(word in _LOWER_IS_BETTER or word.endswith(_LOWER_ENDINGS) for word in _words(metric))


def gap_of(results: Mapping[str, float], metric: str, *, higher: bool) -> float:
    """How much worse a run does on held-out data than on its own: a result in GAPS, else against the training's.

    Args:
        results: that it ended with.
        metric: that is forecast, as measured on held-out data.
        higher: whether more of it is better.

    Returns:
        In the unit of the metric, positive where training does better; NaN where that is not known.
    """
    for name in GAPS:
        if name in results:
            return results[name]
    trained = [name for name in sorted(results) if is_trained(name) and root(name) == root(metric)]
    if not trained or metric not in results:
        return math.nan
    return (results[trained[0]] - results[metric]) * (1 if higher else -1)
