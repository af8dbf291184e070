"""Forecasts of how well runs will do, from what finished runs looked like on the way. Pure functions on arrays."""

from topowatch_monitor.forecast.learner import Learned, learn
from topowatch_monitor.forecast.regressor import Prediction
from topowatch_monitor.forecast.table import FEATURES, UnusableError

__all__ = ["FEATURES", "Learned", "Prediction", "UnusableError", "learn"]
