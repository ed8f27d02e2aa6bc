"""What is kept of an enrolment, which addresses are taken, and what the words of sharing promise."""

from __future__ import annotations

import base64
import hashlib
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import MisuseError, SyncError, TrustError
from edge.sync.device_file import Enrolment, SyncFolder, parse_server, require_root, root_hash_of
from edge.sync.sharing import LEVELS, allows, parse_level, understood_labels, words_of


@pytest.mark.parametrize(
    ("given_url", "server"),
    [
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"), ("http://localhost", "http://localhost"),
        ("http://[::1]:80", "http://[::1]:80"), ("http://127.9.9.9:1", "http://127.9.9.9:1"),
        ("https://home.example:8443", "https://home.example:8443"),
    ],
)  # fmt: skip
def test_addresses(given_url: str, server: str) -> None:
    assert parse_server(given_url) == server


@pytest.mark.parametrize(
    "url",
    ["http://home.example", "http://192.168.1.5:80", "http://127.0.0.1.evil.example", "ftp://127.0.0.1", "127.0.0.1:80",
     "https://user:pw@home.example", "https://home.example/path", "https://home.example?x=1", "https://h:99999", ""],
)  # fmt: skip
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(SyncError):
        parse_server(url)


def test_the_enrolment_is_for_its_owner_alone_and_goes_whole(quick: Path) -> None:
    folder = SyncFolder(quick / "state")
    assert folder.load() is None
    key = folder.key_to_enrol()
    assert folder.key_to_enrol().public_bytes == key.public_bytes  # an interrupted enrolment goes on with its key
    enrolment = Enrolment("https://a", key.device_id, "n", "clips", "00", ("baby",))
    folder.save(enrolment)
    assert folder.load() == enrolment
    for name in ("device.json", "device_key"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600
    folder.remove()
    assert folder.load() is None and not folder.path.exists()


@given(data=st.binary(max_size=200))
def test_a_damaged_enrolment_is_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = SyncFolder(tmp_path_factory.mktemp("state"))
    folder.make()
    (folder.path / "device.json").write_bytes(data)
    with pytest.raises(SyncError, match="enrol again"):
        folder.load()


def test_the_token_carries_the_trust() -> None:
    root = b"the first root file"
    mark = base64.urlsafe_b64encode(hashlib.sha256(root).digest()).decode()[:22]
    assert root_hash_of("A" * 22) is None
    assert root_hash_of("A" * 22 + mark) == mark
    require_root(root, mark)
    require_root(b"anything", None)
    with pytest.raises(TrustError, match="nothing was kept"):
        require_root(b"another root", mark)
    for token in ("", "A" * 21, "A" * 43, "A" * 21 + "!", "A" * 45):
        with pytest.raises(SyncError):
            root_hash_of(token)


def test_levels_are_ordered_and_each_has_words() -> None:
    allowed = [[kind for kind in ("state", "embeddings", "clips") if allows(level, kind)] for level in LEVELS]
    assert allowed == [[], ["state"], ["state", "embeddings"], ["state", "embeddings", "clips"]]
    for level in LEVELS[1:]:
        assert "names of your sounds" in words_of(level)
    assert "recordings themselves" in words_of("clips") and "recordings themselves" not in words_of("embeddings")
    with pytest.raises(MisuseError):
        parse_level("everything")


def test_labels_that_a_server_names_are_read_with_care() -> None:
    assert understood_labels(["bell", "", 3, None, "_background_"]) == {"bell", "_background_"}
    assert understood_labels({"a": 1}) == understood_labels(None) == frozenset()
