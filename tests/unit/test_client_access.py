"""What a forwarder that serves several users sends where, and whose files it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from topowatch_client.config import Config
from topowatch_client.transport import Access

if TYPE_CHECKING:
    from pathlib import Path

SOMEBODY = 12345
OURS = "monitor:7070"


@pytest.fixture
def own() -> Config:
    return Config(endpoint=OURS, token="of-the-host")  # noqa: S106 - it opens nothing


def test_of_our_own_jobs_we_take_what_they_noted(own: Config, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("theirs\n")
    (tmp_path / "token").chmod(0o600)
    access = Access.of_writer({"endpoint": "other:1", "token_file": str(tmp_path / "token")}, own)
    assert (access.endpoint, access.metadata()) == ("other:1", (("authorization", "Bearer theirs"),))
    assert Access.of_writer({"endpoint": "other:1"}, own).metadata() == (("authorization", "Bearer of-the-host"),)


def test_our_token_goes_nowhere_that_another_user_names(own: Config) -> None:
    assert Access.of_writer({"endpoint": OURS}, own, owner=SOMEBODY).metadata()
    assert Access.of_writer({}, own, owner=SOMEBODY).metadata()
    assert Access.of_writer({"endpoint": "evil:1"}, own, owner=SOMEBODY).metadata() == ()
    told = Access.of_writer({"endpoint": "evil:1"}, own, endpoint=OURS, owner=SOMEBODY)
    assert (told.endpoint, bool(told.metadata())) == (OURS, True)


def test_what_is_ours_may_be_for_our_eyes_only(tmp_path: Path) -> None:
    """A job that names the authority of the daemon alone is sent with the forwarder's own token."""
    for name in ("ca.pem", "token"):
        (tmp_path / name).write_text("ours")
    (tmp_path / "token").chmod(0o600)
    own = Config(endpoint=OURS, token_file=tmp_path / "token")
    access = Access.of_writer({"endpoint": OURS, "tls_ca": str(tmp_path / "ca.pem")}, own, owner=SOMEBODY)
    assert access.metadata() == (("authorization", "Bearer ours"),)


@pytest.mark.parametrize(("mode", "readable"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_file_that_another_user_names_has_to_be_one_that_they_may_read(
    own: Config, tmp_path: Path, mode: int, readable: bool
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("only-for-root")
    secret.chmod(mode)
    access = Access.of_writer(
        {"endpoint": "evil:1", "token_file": str(secret), "tls_key": str(secret)}, own, owner=SOMEBODY
    )
    if readable:
        assert access.metadata() == (("authorization", "Bearer only-for-root"),)
    else:
        for read in (access.metadata, access.credentials):
            with pytest.raises(PermissionError, match="whose job named it"):
                read()
