"""The daemon's settings: where they come from, and what is said of wrong ones."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from topowatch_monitor import config
from topowatch_monitor.config import Address, ConfigError, Settings, load, parse_address

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in os.environ:
        if name.startswith(config.ENV_PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("text", "expected", "written"),
    [
        ("127.0.0.1:7070", Address("127.0.0.1", 7070), "127.0.0.1:7070"),
        ("localhost:0", Address("localhost", 0), "localhost:0"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        (" 0.0.0.0:65535 ", Address("0.0.0.0", 65535), "0.0.0.0:65535"),  # noqa: S104 - parsed, not bound
    ],
)
def test_addresses_are_parsed_and_written_alike(text: str, expected: Address, written: str):
    assert parse_address(text) == expected
    assert str(expected) == written
    assert parse_address(written) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7070", "not HOST:PORT"),
        (":7070", "not HOST:PORT"),
        ("::1:7070", "brackets"),
        ("host:", "not a number"),
        ("host:http", "not a number"),
        ("host:70000", "0 to 65535"),
        ("host:-1", "not a number"),
        ("host:٣", "not a number"),
        ("[]:1", "no valid host"),
        ("http://host:1", "brackets"),
        ("a b:1", "no valid host"),
        (7070, "expected HOST:PORT"),
    ],
)
def test_a_wrong_address_is_explained(text: object, words: str):
    with pytest.raises(ValueError, match=words):
        parse_address(text)


def test_flags_beat_environment_beats_file_beats_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / "t.toml"
    file.write_text('shards = 3\ngrpc = "127.0.0.1:1"\nsegment_bytes = 70000\n')
    monkeypatch.setenv("TOPOWATCH_MONITOR_GRPC", "127.0.0.1:2")
    monkeypatch.setenv("TOPOWATCH_MONITOR_SEGMENT_BYTES", "80000")
    loaded = load({"segment_bytes": 90000, "http": None}, file)
    settings = loaded.settings
    assert (settings.shards, str(settings.grpc), settings.segment_bytes) == (3, "127.0.0.1:2", 90000)
    assert str(settings.http) == "127.0.0.1:7071"
    assert loaded.origin["shards"] == f"file {file}"
    assert loaded.origin["grpc"] == "environment TOPOWATCH_MONITOR_GRPC"
    assert loaded.origin["segment_bytes"] == "flag --segment-bytes"
    assert loaded.origin["http"] == "default"


def test_an_address_of_ray_without_ray_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Ignoring it would leave somebody in the belief that the cluster computes."""
    monkeypatch.setenv("TOPOWATCH_MONITOR_RAY_ADDRESS", "head:6379")
    assert load({"engine": "ray"}).settings.ray_address == "head:6379"
    with pytest.raises(ConfigError) as refused:
        load({"engine": "inline"})
    assert str(refused.value) == (
        "ray_address (environment TOPOWATCH_MONITOR_RAY_ADDRESS): engine is inline (flag --engine), which joins no Ray "
        "cluster: leave the address out, or set engine to ray"
    )


def test_a_pool_that_cannot_grow_as_asked_is_refused():
    assert load({"ray_address": "head:6379", "most_shards": 2}).settings.most_shards == 2
    with pytest.raises(ConfigError, match=r"only a cluster grows: name one with ray_address"):
        load({"most_shards": 4})
    with pytest.raises(ConfigError, match=r"is 3, fewer than shards \(flag --shards\), which is 4"):
        load({"ray_address": "head:6379", "shards": 4, "most_shards": 3})


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().shards = 3


def test_every_setting_is_described_with_its_unit():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        for unit in ("seconds", "bytes"):
            if name.endswith(f"_{unit}"):
                assert unit in field.description.lower(), name


def test_data_directory_honours_xdg_and_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert load().settings.data_dir == tmp_path / "data" / "topowatch"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load().settings.data_dir == tmp_path / ".local" / "share" / "topowatch"
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert load().settings.data_dir == tmp_path / ".local" / "share" / "topowatch"
    assert load({"data_dir": "~/x"}).settings.data_dir == tmp_path / "x"


def test_an_unknown_key_is_named_with_its_file_and_the_nearest(tmp_path: Path):
    file = tmp_path / "t.toml"
    file.write_text("shard = 3\n")
    with pytest.raises(ConfigError) as caught:
        load(file=file)
    assert "'shard'" in str(caught.value)
    assert str(file) in str(caught.value)
    assert "did you mean shards" in str(caught.value)


def test_an_unknown_key_like_no_other_gets_the_whole_list(tmp_path: Path):
    file = tmp_path / "t.toml"
    file.write_text("zzz = 3\n")
    with pytest.raises(ConfigError, match="valid are data_dir, grpc, http"):
        load(file=file)


def test_an_unknown_variable_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOPOWATCH_MONITOR_DATADIR", "/x")
    with pytest.raises(ConfigError, match=r"TOPOWATCH_MONITOR_DATADIR: did you mean TOPOWATCH_MONITOR_DATA_DIR"):
        load()


@pytest.mark.parametrize(
    "name", ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_7070_TCP_ADDR", "EU_SERVICE_HOST"]
)
def test_variables_that_kubernetes_sets_for_a_service_are_no_settings(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(f"TOPOWATCH_MONITOR_{name}", "tcp://10.0.0.1:7070")
    assert load().settings == Settings()


def test_no_variable_of_the_client_is_taken_for_one_of_ours():
    from dataclasses import fields

    from topowatch_client.config import Config

    for field in fields(Config):
        assert not f"TOPOWATCH_{field.name.upper()}".startswith(config.ENV_PREFIX)


def test_a_wrong_value_is_named_with_where_it_came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TOPOWATCH_MONITOR_SHARDS", "many")
    file = tmp_path / "t.toml"
    file.write_text('engine = "steam"\n')
    with pytest.raises(ConfigError) as caught:
        load({"grpc": "7070"}, file)
    message = str(caught.value)
    assert "shards (environment TOPOWATCH_MONITOR_SHARDS)" in message
    assert f"engine (file {file})" in message
    assert "'steam'" in message
    assert "grpc (flag --grpc): '7070' is not HOST:PORT" in message


@pytest.mark.parametrize(("content", "words"), [("a = [", "not valid TOML"), (None, "No such file")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, words: str):
    file = tmp_path / "t.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load(file=file)
    assert str(file) in str(caught.value)
