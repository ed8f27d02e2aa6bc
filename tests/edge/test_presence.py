"""How other programs find the running listener."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from edge.errors import StateError
from edge.presence import PRESENCE_NAME, Presence, announce, find_presence, new_token, withdraw

HERE = Presence(os.getpid(), "127.0.0.1", 8737, "secret", "5" * 64)


def test_what_is_announced_is_found_until_it_is_withdrawn(tmp_path: Path) -> None:
    assert find_presence(tmp_path) is None
    announce(tmp_path, HERE)
    assert find_presence(tmp_path) == HERE
    withdraw(tmp_path)
    withdraw(tmp_path)
    assert find_presence(tmp_path) is None


def test_nobody_else_can_read_the_token(tmp_path: Path) -> None:
    path = tmp_path / PRESENCE_NAME
    path.write_text("old")
    path.chmod(0o644)
    announce(tmp_path, HERE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"pid": 1}', "\xff", json.dumps({**HERE.__dict__, "port": "8737"}),
     json.dumps({**HERE.__dict__, "token": 3}), json.dumps({**HERE.__dict__, "more": 1})],
)  # fmt: skip
def test_what_cannot_be_understood_is_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / PRESENCE_NAME).write_bytes(text.encode("latin-1"))
    assert find_presence(tmp_path) is None


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"listener\.json cannot be written"):
        announce(tmp_path / "missing", HERE)


def test_addresses_and_tokens() -> None:
    assert HERE.url == "http://127.0.0.1:8737"
    assert Presence(1, "::1", 80, "t", "s").url == "http://[::1]:80"
    assert len(new_token()) >= 40 and new_token() != new_token()
