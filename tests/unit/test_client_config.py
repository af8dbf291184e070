"""Settings: argument > environment > file > default, and a clear word about what cannot be used."""

from __future__ import annotations

import ast
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from topowatch_client import config, identity
from topowatch_client.config import Config, ConfigError, load


def test_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    chosen = load({}, {"XDG_CACHE_HOME": "/cache"}, tmp_path)
    assert (chosen.endpoint, chosen.mode, chosen.group) == ("127.0.0.1:7070", "online", "default")
    assert (chosen.spool_max_bytes, chosen.max_overhead) == (256 << 20, 0.005)
    assert (chosen.interval, chosen.start_step, chosen.incarnation) == (None, None, None)
    assert (chosen.sketch_dim, chosen.sketch_seed, chosen.probe_positions) == (1021, 0, 256)
    assert str(chosen.spool_dir) == "/cache/topowatch/spool"


def test_every_field_has_a_type_and_can_come_from_the_environment() -> None:
    assert set(config._TYPES) == {field.name for field in fields(Config)} - {"given"}


def test_argument_beats_environment_beats_file(tmp_path: Path) -> None:
    (tmp_path / "topowatch.toml").write_text('[client]\ngroup = "file"\nrun = "file"\ninterval = 8\n')
    environment = {"TOPOWATCH_GROUP": "environment", "TOPOWATCH_RUN": "environment"}
    chosen = load({"group": "argument"}, environment, tmp_path)
    assert (chosen.group, chosen.run, chosen.interval) == ("argument", "environment", 8)


def test_all_variables_of_the_contract_are_read(tmp_path: Path) -> None:
    chosen = load(
        {},
        {
            "TOPOWATCH_ENDPOINT": "[::1]:7",
            "TOPOWATCH_TOKEN": "secret",
            "TOPOWATCH_TOKEN_FILE": "/t",
            "TOPOWATCH_MODE": "offline",
            "TOPOWATCH_SPOOL_DIR": "/s",
            "TOPOWATCH_INTERVAL": "32",
            "TOPOWATCH_MAX_OVERHEAD": "0.01",
            "TOPOWATCH_TLS_CA": "/ca",
            "TOPOWATCH_TLS_CERT": "/cert",
            "TOPOWATCH_TLS_KEY": "/key",
            "TOPOWATCH_DATA_DIR": "of the daemon: not ours",
        },
        tmp_path,
    )
    assert (chosen.endpoint, chosen.token, chosen.mode, chosen.interval) == ("[::1]:7", "secret", "offline", 32)
    assert [str(path) for path in (chosen.token_file, chosen.spool_dir, chosen.tls_ca)] == ["/t", "/s", "/ca"]
    assert chosen.max_overhead == 0.01
    assert "secret" not in repr(chosen)


@pytest.mark.parametrize(
    ("arguments", "environment", "text", "complaint"),
    [
        ({"colour": 1}, {}, "", "unknown key 'colour'"),
        ({}, {}, "[client]\ncolour = 1", "unknown key 'colour'"),
        ({}, {}, "client = 3", "must be a table"),
        ({}, {}, "[client", "cannot be read"),
        ({}, {}, "[client]\ninterval = '8'", "interval must be a int"),
        ({}, {"TOPOWATCH_INTERVAL": "often"}, "", "TOPOWATCH_INTERVAL: 'often'"),
        ({}, {"TOPOWATCH_INTERVAL": "0"}, "", "at least 1 step"),
        ({}, {"TOPOWATCH_MODE": "on"}, "", "one of online, offline, disabled"),
        ({"endpoint": "http://x"}, {}, "", "must be HOST:PORT"),
        ({"endpoint": "x:99999"}, {}, "", "must be HOST:PORT"),
        ({"max_overhead": 0.0}, {}, "", "between 0 and 1"),
        ({"group": ""}, {}, "", "must not be empty"),
        ({"interval": True}, {}, "", "interval must be"),
        ({"tls_cert": "/c"}, {}, "", "needs tls_key"),
        ({"start_step": -1}, {}, "", "not be negative"),
        ({"spool_max_bytes": 1}, {}, "", "at least 65536"),
    ],
)
def test_what_cannot_be_used_is_named(
    arguments: dict[str, object], environment: dict[str, str], text: str, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "topowatch.toml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load(arguments, environment, tmp_path)


def test_it_is_known_which_settings_somebody_gave(tmp_path: Path) -> None:
    """Naming the default is not the same as naming nothing."""
    assert load({}, {}, tmp_path).given == frozenset()
    named = load({"group": "g"}, {"TOPOWATCH_ENDPOINT": "127.0.0.1:7070"}, tmp_path)
    assert named.given == {"group", "endpoint"}
    assert config.override(named, {"run": "r", "endpoint": None}).given == {"group", "endpoint", "run"}
    with pytest.raises(ConfigError, match="unknown key 'given'"):
        load({"given": "x"}, {}, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "environment", "token", "token_file"),
    [
        ({"token": "a"}, {"TOPOWATCH_TOKEN_FILE": "/e"}, "a", None),
        ({"token_file": "/a"}, {"TOPOWATCH_TOKEN": "e"}, None, "/a"),
        ({}, {"TOPOWATCH_TOKEN": "e"}, "e", None),
        ({}, {"TOPOWATCH_TOKEN": "e", "TOPOWATCH_TOKEN_FILE": "/e"}, "e", "/e"),
        ({}, {}, None, "/f"),
    ],
)
def test_a_token_of_any_kind_beats_one_of_a_weaker_layer(
    arguments: dict[str, str], environment: dict[str, str], token: str | None, token_file: str | None, tmp_path: Path
) -> None:
    (tmp_path / "topowatch.toml").write_text('[client]\ntoken_file = "/f"\n')
    chosen = load(arguments, environment, tmp_path)
    assert (chosen.token, chosen.token_file and str(chosen.token_file)) == (token, token_file)


def test_what_the_launcher_says_is_read_once() -> None:
    said = config.launch({"RANK": "3", "WORLD_SIZE": "8", "SLURM_JOB_ID": "17"})
    assert said == config.Launch(run="17", shared=True, rank=3, world_size=8)


def test_patterns_are_lists_in_files_and_arguments_and_parted_by_commas_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "topowatch.toml").write_text('[client]\ninclude = ["head.*"]\nexclude = ["*.bias"]\n')
    chosen = load({"include": ["a"]}, {"TOPOWATCH_EXCLUDE": "b*, c,"}, tmp_path)
    assert (chosen.include, chosen.exclude) == (("a",), ("b*", "c"))
    with pytest.raises(config.ConfigError, match="include must be a list of texts, not 'a'"):
        load({"include": "a"}, {}, tmp_path)


def test_is_frozen_and_can_be_overridden() -> None:
    chosen = config.override(Config(), {"run": "r", "group": None})
    assert (chosen.run, chosen.group) == ("r", "default")
    with pytest.raises(FrozenInstanceError):
        chosen.run = "s"  # type: ignore[misc] # that is the point


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"SLURM_JOB_ID": "17"}, "17"),
        ({"TORCHELASTIC_RUN_ID": "a/b"}, "a-b"),
        ({"SLURM_JOB_ID": "1", "TORCHELASTIC_RUN_ID": "2"}, "1"),
    ],
)
def test_a_run_is_named_after_its_job(environment: dict[str, str], name: str) -> None:
    assert identity.job_id(environment) == name
    assert config.launch(environment).run == name


def test_without_a_launcher_the_name_says_where_and_when() -> None:
    said = config.launch({"TORCHELASTIC_RUN_ID": "none"})
    name = said.run
    assert not said.shared
    assert name.count("-") >= 3
    assert "/" not in name


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"RANK": "x"}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "2"}, (0, 1)),
    ],
)
def test_ranks_are_read_from_the_launcher(environment: dict[str, str], ranks: tuple[int, int]) -> None:
    assert identity.ranks(environment) == ranks


def test_the_environment_is_read_at_the_edge_alone() -> None:
    """config.py parses it; spawn.py hands it on to the forwarder."""
    sources = Path(config.__file__).parent.rglob("*.py")
    assert {path.name for path in sources if "environ" in _names(path)} == {"config.py", "spawn.py"}


def _names(path: Path) -> set[str]:
    return {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


def test_incarnations_only_grow() -> None:
    numbers = [identity.next_incarnation() for _ in range(100)]
    assert numbers == sorted(set(numbers))
    assert identity.next_incarnation(numbers[-1] + 10**9) == numbers[-1] + 10**9
    assert identity.next_incarnation() == numbers[-1] + 10**9 + 1
