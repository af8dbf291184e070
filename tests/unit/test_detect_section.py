"""Thresholds in the settings: where they come from, what is said of wrong ones, and whom they reach."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor import config
from topowatch_monitor.commands.config_toml import config_toml
from topowatch_monitor.config import ConfigError, Settings, load
from topowatch_monitor.detect import Thresholds
from topowatch_monitor.detect.threshold_tables import thresholds_from
from topowatch_monitor.detect_section import SHARE, attributes_of, introduction_of, keys, tables
from topowatch_monitor.engine.parts import run_settings
from topowatch_monitor.engine.settings import HostSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch):
    for name in os.environ:
        if name.startswith(config.ENV_PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "t.toml"


def valid(name: str) -> st.SearchStrategy[float]:
    """Values that a threshold may take."""
    key = keys()[name]
    largest = 1 if SHARE in key.meaning else None
    if isinstance(key.default, int):
        return st.integers(1, largest or 10**9)
    return st.floats(0, largest, exclude_min=True, allow_nan=False, allow_infinity=False)


def agree(told: dict[str, float]) -> bool:
    try:
        thresholds_from(nested(told))
    except ValueError:
        return False
    return True


def nested(told: dict[str, float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, value in told.items():
        _, detector, threshold = name.split(".")
        found.setdefault(detector, {})[threshold] = value
    return found


thresholds = st.fixed_dictionaries({}, optional={name: valid(name) for name in keys()}).filter(agree)


def test_every_threshold_is_a_key_and_says_what_it_is_for():
    names = [f"detect.{one.name}.{other.name}" for one in fields(Thresholds) for other in fields(one.default_factory)]
    assert list(keys()) == names
    for key in keys().values():
        assert key.meaning.endswith("."), key
        assert isinstance(key.default, int | float), key
        assert not isinstance(key.default, bool), key
    for name, about in tables().items():
        assert about.endswith("."), name


def test_a_default_is_an_int_where_its_annotation_is():
    for one in fields(Thresholds):
        for other in fields(one.default_factory):
            assert type(other.default).__name__ == other.type, f"{one.name}.{other.name}"


def test_what_a_docstring_says_of_an_attribute_is_found_over_its_lines():
    class Described:
        """One line.

        And another.

        Attributes:
            first: one: with a colon,
                and more.
            second: another.
        """

    assert attributes_of(Described) == {"first": "one: with a colon, and more.", "second": "another."}
    assert introduction_of(Described) == "One line. And another."


def test_settings_without_a_section_have_the_defaults_of_the_detectors():
    assert load().settings.detect == Settings().detect == Thresholds()
    changed = replace(Thresholds(), loss_rise=replace(Thresholds().loss_rise, alarm=30.0))
    assert Settings(detect=changed).detect == changed


def test_thresholds_come_key_by_key_from_environment_file_and_defaults(monkeypatch: pytest.MonkeyPatch, file: Path):
    file.write_text("[detect.loss_rise]\nalarm = 30\nclip = 5\n")
    monkeypatch.setenv("TOPOWATCH_MONITOR_DETECT__LOSS_RISE__ALARM", "31.5")
    monkeypatch.setenv("TOPOWATCH_MONITOR_DETECT__MISSING_RANK__SECONDS", "7")
    loaded = load(file=file)
    told = loaded.settings.detect
    assert (told.loss_rise.alarm, told.loss_rise.clip, told.missing_rank.seconds) == (31.5, 5.0, 7.0)
    assert told.loss_rise.share == Thresholds().loss_rise.share
    assert loaded.origin["detect.loss_rise.alarm"] == "environment TOPOWATCH_MONITOR_DETECT__LOSS_RISE__ALARM"
    assert loaded.origin["detect.loss_rise.clip"] == f"file {file}"
    assert loaded.origin["detect.loss_rise.share"] == "default"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "[detect.loss_rise]\nalarm = 0",
            "detect.loss_rise.alarm (file {file}): Input should be greater than 0, not 0",
        ),
        ("[detect.loss_rise]\nalarm = -1", "greater than 0, not -1"),
        ("[detect.loss_rise]\nalarm = inf", "a finite number, not inf"),
        ("[detect.loss_rise]\nalarm = nan", "detect.loss_rise.alarm (file {file})"),
        ("[detect.loss_rise]\nalarm = 'high'", "valid number, unable to parse string as a number, not 'high'"),
        ("[detect.loss_rise]\nalarm = true", "detect.loss_rise.alarm (file {file}): a threshold is a number, not true"),
        ("[detect.loss_rise]\nshare = 1.5", "detect.loss_rise.share (file {file}): Input should be less than or equal"),
        ("[detect.exploding_update]\npersist = 2.5", "a valid integer, got a number with a fractional part, not 2.5"),
        ("[detect.exploding_update]\npersist = 0", "greater than or equal to 1, not 0"),
        ("[detect.loss_rise]\nalrm = 3", "'detect.loss_rise.alrm' (file {file}): did you mean detect.loss_rise.alarm"),
        ("[detect.los_rise]\nalarm = 3", "unknown key 'detect.los_rise' (file {file}): did you mean detect.loss_rise"),
        (
            "[detect.gradient_growth]\nwindow = 64",
            "detect.gradient_growth (file {file}): window 64 is too short: it has to hold lag 48",
        ),
        ("[detect]\nloss_rise = 3", "detect.loss_rise (file {file}): Input should be a valid dictionary"),
        ("detect = 3", "detect (file {file}): Input should be a valid dictionary"),
        ("lost_seconds = 3", "did you mean detect.stalled_run.lost_seconds?"),
    ],
)
def test_a_wrong_threshold_is_named_with_what_is_allowed(file: Path, content: str, words: str):
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load(file=file)
    assert words.format(file=file) in str(caught.value)


@pytest.mark.parametrize("variable", ["DETECT__LOSS_RISE__ALRM", "DETECT__LOSS_RISE", "DETECT", "DETECT__X__Y"])
def test_a_variable_that_is_no_threshold_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str):
    monkeypatch.setenv(f"TOPOWATCH_MONITOR_{variable}", "3")
    with pytest.raises(ConfigError, match=f"unknown environment variable TOPOWATCH_MONITOR_{variable}: "):
        load()


@settings(deadline=None)
@given(told=thresholds)
def test_any_valid_thresholds_reach_the_shards_as_they_were_told(told: dict[str, float]):
    settings = Settings(detect=nested(told))
    known = {
        f"detect.{one}.{two}": value for one, each in asdict(settings.detect).items() for two, value in each.items()
    }
    assert known == {**{name: key.default for name, key in keys().items()}, **told}
    host = HostSettings(
        data_dir="",
        shards=1,
        most_shards=1,
        ray_address=None,
        snapshot_seconds=1,
        path_window=64,
        h1_every=1,
        h1_landmarks=8,
        history_window=64,
        atlas_seconds=1,
        homology_timeout_seconds=1,
        thresholds=asdict(settings.detect),
    )
    assert run_settings(HostSettings(**json.loads(host.to_json()))).thresholds == settings.detect


@settings(deadline=None)
@given(told=thresholds)
def test_the_listing_as_toml_says_the_same_settings_again(
    tmp_path_factory: pytest.TempPathFactory, told: dict[str, Any]
):
    file = tmp_path_factory.mktemp("listed") / "t.toml"
    origin = load().origin
    settings = Settings(detect=nested(told), data_dir='/a "b" \\c', ray_address=None)
    file.write_text(config_toml(config.Loaded(settings, origin)))
    assert load(file=file).settings == settings


def test_the_listing_has_each_key_under_its_reason(file: Path):
    file.write_text("[detect.loss_rise]\nalarm = 30\n")
    listed = config_toml(load(file=file))
    for key in keys().values():
        assert f"\n{key.name.rpartition('.')[2]} = " in listed
        assert key.meaning in listed.replace("\n# ", " ")
    assert f"(file {file})\nalarm = 30.0\n" in listed.replace("\n# ", " ")
    assert "# ray_address =\n" in listed


def test_tables_that_name_no_detector_or_threshold_are_errors():
    assert thresholds_from({}) == Thresholds()
    with pytest.raises(AttributeError):
        thresholds_from({"other": {}})
    with pytest.raises(TypeError):
        thresholds_from({"loss_rise": {"other": 1.0}})
