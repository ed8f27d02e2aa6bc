"""``soundkeep-trainer keys`` and ``bundles``, as an operator types them."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge.bundle import Bundle, shipped_bundles_path
from edge.sync.channel import BundleChannel
from edge.sync.fetcher import FolderFetcher
from tests.simulators.small_backbone import write_small_bundle
from trainer.cli import main
from trainer.server.adaptation import bundle_folder
from trainer.server.opening import Server
from trainer.server.publishing import list_bundles, publish_bundle, register_bundle, withdraw_published
from trainer.server.repository import ensure_repository, first_root_bytes
from trainer.server.repository_files import KeyAbsentError
from trainer.server.tables import Job, PublishedBundle, Space


def run(*arguments: str | Path, ok: bool = True) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert (result.exit_code == 0) == ok, result.output
    return result


def said(*arguments: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("--json", *arguments).stdout.splitlines()]


def newest(data: Path, source: Path, trust: Path) -> int | None:
    offer = BundleChannel(trust, FolderFetcher(source), bootstrap=first_root_bytes(data)).newest("small")
    return None if offer is None else offer.version


def test_a_ceremony_from_making_to_rotating(tmp_path: Path) -> None:
    data, stick = tmp_path / "data", tmp_path / "stick"
    made = run("keys", "make", "--data", data, "--keys", stick, "--root-keys", 3, "--threshold", 2)
    assert f"made keys in {stick}" in made.stdout and "kept elsewhere" in made.stderr
    assert {p.name for p in stick.iterdir()} == {"root-1.pem", "root-2.pem", "root-3.pem", "targets.pem"}
    assert not (data / "keys" / "offline").exists() and stat.S_IMODE(data.stat().st_mode) == 0o700
    refused = run("keys", "make", "--data", data, ok=False)
    assert refused.exit_code == 2 and "has its keys already" in refused.stderr
    roles = {line["role"]: line for line in said("keys", "show", "--data", data)}
    assert roles["root"]["threshold"] == 2 and list(roles["root"]["keys"].values()) == [None] * 3
    assert all(roles["timestamp"]["keys"].values())
    words = run("keys", "show", "--data", data, "--keys", stick)
    assert "not here" not in words.stdout and "2 of 3 keys" in words.stdout
    for role in ("root", "targets", "snapshot", "timestamp"):
        missing = run("keys", "rotate", role, "--data", data, ok=False)
        assert missing.exit_code == 1 and "--keys" in missing.stderr
    assert said("keys", "rotate", "targets", "--data", data, "--keys", stick) == [
        {"role": "targets", "root_version": 2}
    ]
    again = run("keys", "rotate", "root", "--data", data, "--keys", stick, "--root-keys", 2, "--threshold", 1)
    assert "since root version 3" in again.stdout and "destroy the copies" in again.stderr
    assert {p.name for p in stick.iterdir()} == {"root-1-3.pem", "root-2-3.pem", "targets-2.pem"}
    run("keys", "rotate", "nonsense", "--data", data, ok=False)


def test_a_bundle_from_adding_to_withdrawing(tmp_path: Path, small_bundle: Bundle) -> None:
    data = tmp_path / "data"
    run("keys", "make", "--data", data)
    (added,) = said("bundles", "add", small_bundle.path, "--data", data)
    assert (added["status"], added["sha256"]) == ("candidate", small_bundle.sha256)
    assert newest(data, data / "repository", tmp_path / "trust") is None, "added is not offered"
    (published,) = said("bundles", "publish", small_bundle.sha256[:12], "--data", data)
    assert published["status"] == "published" and published["published_at"] > 0
    assert newest(data, data / "repository", tmp_path / "trust") == 1
    (exported,) = said("bundles", "export", tmp_path / "stick", "--valid-days", 90, "--data", data)
    assert exported["n_bytes"] == sum(p.stat().st_size for p in (tmp_path / "stick").rglob("*") if p.is_file())
    assert newest(data, tmp_path / "stick", tmp_path / "trust") == 1
    run("bundles", "withdraw", small_bundle.sha256[:12], "--data", data)
    assert newest(data, data / "repository", tmp_path / "trust") is None
    listed = run("bundles", "list", "--data", data).stdout
    assert listed == f"{small_bundle.sha256[:12]}  small 1  withdrawn\n"


def test_what_cannot_be_is_one_sentence(tmp_path: Path, small_bundle: Bundle) -> None:
    data = tmp_path / "data"
    run("keys", "make", "--data", data)
    assert "no bundle yet" in run("bundles", "list", "--data", data).stderr
    for sha256 in ("ffffffff", "", "%", "a"):
        assert "is no bundle of this server" in run("bundles", "publish", sha256, "--data", data, ok=False).stderr
    damaged = write_small_bundle(tmp_path / "damaged")
    (damaged.path / "backbone.onnx").write_bytes(b"x")
    assert "SHA-256" in run("bundles", "add", damaged.path, "--data", data, ok=False).stderr
    assert not (data / "bundles").exists()
    (data / "keys" / "offline").rename(tmp_path / "stick")
    run("bundles", "add", small_bundle.path, "--data", data)
    absent = run("bundles", "publish", small_bundle.sha256, "--data", data, ok=False)
    assert absent.exit_code == 1 and "the targets key is not in" in absent.stderr
    run("bundles", "publish", small_bundle.sha256, "--data", data, "--keys", tmp_path / "stick")


def test_a_passphrase_of_the_environment(tmp_path: Path, small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv("SOUNDKEEP_KEY_PASSPHRASE", "a long sentence")
    run("keys", "make", "--data", data)
    run("bundles", "add", small_bundle.path, "--data", data)
    monkeypatch.delenv("SOUNDKEEP_KEY_PASSPHRASE")
    assert "encrypted" in run("bundles", "publish", small_bundle.sha256, "--data", data, ok=False).stderr
    monkeypatch.setenv("SOUNDKEEP_KEY_PASSPHRASE", "a long sentence")
    run("bundles", "publish", small_bundle.sha256, "--data", data)


# ---- rows, on both databases ----


@pytest.fixture
def server(any_database: str | None, make_server: Callable[[str | None], Server]) -> Server:
    made = make_server(any_database)
    ensure_repository(made.data_dir, now=made.clock())
    return made


def test_rows_follow_what_is_signed(server: Server, small_bundle: Bundle, tmp_path: Path) -> None:
    from trainer.server.database import reading, transaction

    for _ in range(2):
        row = register_bundle(server, small_bundle, gates={"canary": "held"})
    assert row.status == "candidate" and row.gates == {"canary": "held"}
    with reading(server.engine) as session:
        assert session.get(Space, small_bundle.space.sha256) is not None, "statements in its space are welcome"
    assert bundle_folder(server.data_dir, small_bundle.sha256).is_dir()
    for _ in range(2):
        assert publish_bundle(server, small_bundle.sha256).published_at == server.clock()
    assert [b["status"] for b in list_bundles(server)] == ["published"]
    assert withdraw_published(server, small_bundle.sha256).status == "withdrawn"
    other = write_small_bundle(tmp_path / "other", version=2)
    register_bundle(server, other)
    with transaction(server.engine) as session:
        refused = session.get(PublishedBundle, other.sha256)
        assert refused is not None
        refused.status = "refused"
    with pytest.raises(Exception, match="refused by a gate"):
        publish_bundle(server, other.sha256)


def test_a_job_that_waits_for_a_signature_is_done_with_it(server: Server, small_bundle: Bundle, tmp_path: Path) -> None:
    from trainer.server.database import reading, transaction

    with transaction(server.engine) as session:
        job = Job(created_at=1.0, asked_by="test", status="unsigned")
        session.add(job)
        session.flush()
        number = job.id
    register_bundle(server, small_bundle, job_id=number)
    away = tmp_path / "away"
    (server.data_dir / "keys" / "offline").rename(away)
    with pytest.raises(KeyAbsentError):
        publish_bundle(server, small_bundle.sha256)
    with reading(server.engine) as session:
        waiting = session.get(Job, number)
        assert waiting is not None and waiting.status == "unsigned"
    publish_bundle(server, small_bundle.sha256, away)
    with reading(server.engine) as session:
        done = session.get(Job, number)
        assert done is not None and done.status == "done" and done.finished_at == server.clock()


def test_a_crash_between_signing_and_noting_is_mended_by_repeating(
    server: Server, small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.server import publishing

    register_bundle(server, small_bundle)
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "transaction", lambda engine: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish_bundle(server, small_bundle.sha256)
    assert list_bundles(server)[0]["status"] == "candidate"
    assert publish_bundle(server, small_bundle.sha256).status == "published"


def test_a_shipped_bundle_can_be_published(server: Server) -> None:
    from edge.bundle import open_bundle

    shipped = open_bundle(shipped_bundles_path() / "ear")
    register_bundle(server, shipped)
    assert publish_bundle(server, shipped.sha256).parent_space_sha256 is None
