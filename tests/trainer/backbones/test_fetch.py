"""Fetching from a hub that breaks off, changes its files or lies, and from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.errors import BundleError
from tests.trainer.backbones.hub_server import COMMIT, Hub, running_hub
from trainer.backbones import fetch as fetching
from trainer.backbones.catalogue import CATALOGUE, Published
from trainer.backbones.fetch import cache_folder, fetch, fetched, folder_of, lock_of

BODY = bytes(range(256)) * 9000
CONFIG = b'{"num_heads": 1}'


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


ENTRY = Published(
    name="small",
    kind="eat",
    repo="somebody/small",
    file="model.safetensors",
    licence="MIT",
    revision="abc",
    sha256=sha256(BODY),
    beside={"config.json": sha256(CONFIG)},
)
LOOSE = replace(ENTRY, revision=None, sha256=None, beside={})


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        for revision in ("abc", "main", COMMIT):
            hub.files[f"/somebody/small/resolve/{revision}/model.safetensors"] = BODY
            hub.files[f"/somebody/small/resolve/{revision}/config.json"] = CONFIG
        yield hub


def get(entry: Published, cache: Path, hub: Hub, waits: list[float] | None = None) -> Path:
    return fetch(entry, cache, endpoint=hub.address, wait=(waits if waits is not None else []).append)


def test_files_are_fetched_verified_and_locked(hub: Hub, tmp_path: Path) -> None:
    path = get(ENTRY, tmp_path, hub)
    assert path.read_bytes() == BODY
    assert path.with_name("config.json").read_bytes() == CONFIG
    assert sorted(p.name for p in path.parent.iterdir()) == ["config.json", "lock.json", "model.safetensors"]
    assert lock_of(ENTRY, tmp_path).sha256 == {"model.safetensors": sha256(BODY), "config.json": sha256(CONFIG)}
    assert fetched(ENTRY, tmp_path) == path


def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    get(ENTRY, tmp_path, hub)
    hub.requests.clear()
    get(ENTRY, tmp_path, hub)
    assert hub.requests == []


def test_a_broken_connection_is_resumed_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after, hub.cuts = 1_000_000, 2
    waits: list[float] = []
    entry = replace(ENTRY, beside={})
    assert get(entry, tmp_path, hub, waits).read_bytes() == BODY
    ranges = [wanted for path, wanted in hub.requests if path.startswith("/elsewhere")]
    assert ranges == [None, "bytes=1000000-", "bytes=2000000-"]
    assert waits == [1.0, 2.0]


def test_the_next_run_goes_on_from_what_the_last_one_left(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after, hub.cuts = 300_000, fetching.ATTEMPTS
    entry = replace(ENTRY, beside={})
    with pytest.raises(BundleError, match=r"could not be had in 5 attempts.*run the same command again"):
        get(entry, tmp_path, hub)
    assert not (folder_of(entry, tmp_path) / "model.safetensors").exists()
    hub.requests.clear()
    assert get(entry, tmp_path, hub).read_bytes() == BODY
    assert hub.requests[-1][1] == "bytes=1500000-"


def test_a_whole_part_needs_no_more_bytes(hub: Hub, tmp_path: Path) -> None:
    entry = replace(ENTRY, beside={})
    folder_of(entry, tmp_path).mkdir(parents=True)
    (folder_of(entry, tmp_path) / "model.safetensors.part").write_bytes(BODY)
    assert get(entry, tmp_path, hub).read_bytes() == BODY


def test_a_busy_hub_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.busy = 2
    assert get(ENTRY, tmp_path, hub).read_bytes() == BODY


def test_other_bytes_are_refused_and_thrown_away(hub: Hub, tmp_path: Path) -> None:
    entry = replace(ENTRY, sha256="0" * 64)
    with pytest.raises(BundleError, match=f"{sha256(BODY)}; wanted {'0' * 64}"):
        get(entry, tmp_path, hub)
    assert not list(folder_of(entry, tmp_path).glob("model.safetensors*"))
    with pytest.raises(BundleError, match="not in"):
        fetched(entry, tmp_path)


def test_what_is_not_there_is_an_error_that_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"answers 404.*--from"):
        get(replace(ENTRY, revision="gone"), tmp_path, hub)


def test_what_is_not_known_is_kept_from_the_first_fetch_on(hub: Hub, tmp_path: Path) -> None:
    path = get(LOOSE, tmp_path, hub)
    assert lock_of(LOOSE, tmp_path).revision == COMMIT
    for name in list(hub.files):
        hub.files[name] = b"replaced" + BODY
    path.unlink()
    with pytest.raises(BundleError, match="replaced since it was first fetched"):
        get(LOOSE, tmp_path, hub)
    assert f"/somebody/small/resolve/{COMMIT}/model.safetensors" in [path for path, _ in hub.requests]


def test_half_of_one_version_is_never_joined_to_half_of_another(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after, hub.cuts = 300_000, fetching.ATTEMPTS
    with pytest.raises(BundleError):
        get(LOOSE, tmp_path, hub)
    other = bytes(reversed(BODY))
    for name in list(hub.files):
        hub.files[name] = other
    assert get(LOOSE, tmp_path, hub).read_bytes() == other


@pytest.mark.parametrize("altered", ["model.safetensors", "config.json"])
def test_a_file_altered_in_the_cache_is_refused(altered: str, hub: Hub, tmp_path: Path) -> None:
    path = get(ENTRY, tmp_path, hub).with_name(altered)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(BundleError, match="fetch small again"):
        fetched(ENTRY, tmp_path)
    get(ENTRY, tmp_path, hub)
    assert fetched(ENTRY, tmp_path).read_bytes() == BODY


def test_a_file_is_copied_and_verified(tmp_path: Path) -> None:
    source = tmp_path / "mine.safetensors"
    source.write_bytes(BODY)
    (tmp_path / "config.json").write_bytes(CONFIG)
    path = fetch(ENTRY, tmp_path / "cache", source=source)
    assert path.read_bytes() == BODY and path.with_name("config.json").read_bytes() == CONFIG
    source.write_bytes(BODY[:-1])
    with pytest.raises(BundleError, match=r"mine\.safetensors has SHA-256"):
        fetch(ENTRY, tmp_path / "other", source=source)


def test_a_lock_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    folder_of(ENTRY, tmp_path).mkdir(parents=True)
    (folder_of(ENTRY, tmp_path) / "lock.json").write_text(json.dumps({"sha256": 3}), encoding="utf-8")
    with pytest.raises(BundleError, match="fetch small again"):
        lock_of(ENTRY, tmp_path)


def test_the_cache_is_where_the_user_says() -> None:
    assert cache_folder({"SOUNDKEEP_CACHE": "/somewhere"}) == Path("/somewhere")
    assert cache_folder({}).name == "soundkeep"


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda entry: entry.name)
def test_the_catalogue_is_well_formed(entry: Published) -> None:
    assert entry.kind in ("eat", "beats", "ast")
    assert all(known is None or len(known) == 64 for known in entry.hashes.values())
    assert entry.revision is None or len(entry.revision) == 40
    assert list(entry.hashes)[-1] == entry.file
