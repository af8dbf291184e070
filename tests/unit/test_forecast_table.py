"""Rows of features: what is used, what is filled in, and when too little is known."""

from __future__ import annotations

import numpy as np
import pytest

from topowatch_monitor.forecast.table import FEATURES, NAMES, TOPOLOGICAL, Table, UnusableError, raw_row


def raw(count: int, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).standard_normal((count, len(FEATURES))))


def test_rows_that_were_learned_from_are_standardised() -> None:
    table = Table(raw(30))
    assert table.names == list(NAMES)
    np.testing.assert_allclose(table.rows.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(table.rows.std(axis=0), 1)


def test_a_row_is_laid_out_as_those_that_were_learned_from() -> None:
    values = raw(30)
    table = Table(values)
    for number in (0, 7):
        np.testing.assert_allclose(table.row(values[number]), table.rows[number])


def test_of_positive_features_ratios_count() -> None:
    values = raw(20)
    place = NAMES.index("path_length")
    table, longer = Table(values), values.copy()
    longer[:, place] *= 1000.0
    np.testing.assert_allclose(Table(longer).rows, table.rows, atol=1e-9)


def test_what_is_unknown_or_the_same_in_all_is_left_out() -> None:
    values = raw(20)
    values[:10, NAMES.index("dimension")] = np.nan
    values[:, NAMES.index("agreement")] = 0.5
    values[:3, NAMES.index("loss")] = np.inf
    names = Table(values, without=frozenset({"confidence"})).names
    assert not {"dimension", "agreement", "confidence"}.intersection(names)
    assert "loss" in names


def test_what_is_missing_of_a_run_is_taken_to_be_as_usual() -> None:
    values = raw(21)
    table = Table(values)
    missing = values[0].copy()
    missing[3] = np.nan
    expected = table.row(values[0])
    expected[3] = table.row(np.where(np.arange(len(NAMES)) == 3, np.nan, values[5]))[3]
    np.testing.assert_allclose(table.row(missing), expected)
    column = np.sort(table.rows[:, 3])
    assert table.row(missing)[3] == pytest.approx(column[10])


def test_zero_where_ratios_count_lies_below_all_that_was_seen() -> None:
    values = raw(20)
    place = NAMES.index("loss_noise")
    values[4, place] = 0.0
    rows = Table(values).rows
    assert np.isfinite(rows).all()
    assert rows[:, place].argmin() == 4


def test_too_little_is_said_by_name() -> None:
    table = Table(raw(20))
    row = raw(1)[0]
    row[: len(row) // 2] = np.nan
    with pytest.raises(UnusableError, match="too little is known of the run: not loss, loss_lowest"):
        table.row(row)
    with pytest.raises(UnusableError, match="no feature"):
        Table(np.full((20, len(FEATURES)), np.nan))


def test_names_and_layout_agree() -> None:
    row = raw_row({"loss": 2.0, "confidence": 0.5, "unheard_of": 1.0})
    assert (row[NAMES.index("loss")], row[NAMES.index("confidence")]) == (2.0, 0.5)
    assert np.isnan(row).sum() == len(NAMES) - 2
    assert "path_length" not in TOPOLOGICAL
    assert "dimension" in TOPOLOGICAL
