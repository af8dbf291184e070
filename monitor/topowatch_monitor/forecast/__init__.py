"""Forecasts of how well runs will do, from what finished runs looked like on the way. Pure functions on arrays."""

from topowatch_monitor.forecast.regressor import Prediction, Regressor, fit
from topowatch_monitor.forecast.table import FEATURES, Table, UnusableError

__all__ = ["FEATURES", "Prediction", "Regressor", "Table", "UnusableError", "fit"]
