"""What a job is made of: by the operator's labels, on one side for good, and gone when the job is over."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.records import BACKGROUND
from tests.simulators.shared_clips import share_clip
from trainer.datasets import list_clips
from trainer.server.database import reading, transaction
from trainer.server.material import (
    HELD_OUT,
    TRAIN,
    FleetClip,
    folder_name,
    in_classes_of,
    input_sha256,
    is_held_out,
    lay_out,
    remove_recordings,
    situation,
    usable_clips,
)
from trainer.server.opening import Server
from trainer.server.policy import Policy
from trainer.server.tables import Device, Job, LabelRule, State

A, B = "a" * 32, "b" * 32


def share(server: Server, device: str, label: str, n: int, *, first: int = 0) -> list[str]:
    return [share_clip(server, device, label, f"wav of {label} {i}".encode()) for i in range(first, first + n)]


def usable(server: Server) -> list[FleetClip]:
    with reading(server.engine) as session:
        return usable_clips(session)


def labels(server: Server) -> set[str]:
    return {clip.label for clip in usable(server)}


def rule(server: Server, label: str, action: str, target: str | None = None, device: str = "") -> None:
    with transaction(server.engine) as session:
        session.merge(LabelRule(device_id=device, label=label, action=action, target=target))


def test_only_clips_of_devices_in_good_standing(any_engine_server: Server) -> None:
    server = any_engine_server
    share(server, A, "bell", 2)
    share(server, B, "dog", 2)
    share(server, B, BACKGROUND, 2)
    assert labels(server) == {"bell", "dog"}, "ignored sounds are no class"
    with transaction(server.engine) as session:
        session.get(State, A).held_back = "poisons"  # type: ignore[union-attr]
    assert labels(server) == {"dog"}
    with transaction(server.engine) as session:
        session.get(Device, B).status = "revoked"  # type: ignore[union-attr]
    assert labels(server) == set()


def test_labels_are_the_operators(sqlite_server: Server) -> None:
    server = sqlite_server
    for device in (A, B):
        for label in ("bell", "doorbell", "voice", "alarm"):
            share(server, device, label, 1, first=0 if device == A else 5)
    rule(server, "doorbell", "merge", "bell")
    rule(server, "voice", "private")
    rule(server, "alarm", "split")
    assert labels(server) == {"bell", f"alarm ({A})", f"alarm ({B})"}
    rule(server, "voice", "merge", "doorbell", device=B)
    assert len([clip for clip in usable(server) if clip.label == "bell"]) == 5, "rules follow each other"


def test_one_recording_of_two_devices_is_one_clip(sqlite_server: Server) -> None:
    share(sqlite_server, A, "bell", 2)
    share(sqlite_server, B, "bell", 2)
    assert len(usable(sqlite_server)) == 2


@given(st.integers(0, 100_000))
def test_a_recording_is_on_one_side_for_good(number: int) -> None:
    wav = hashlib.sha256(str(number).encode()).hexdigest()
    assert {FleetClip(label, wav, device).held_out for label in "xy" for device in (A, B)} == {is_held_out(wav)}


def test_a_quarter_is_held_out() -> None:
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000)]
    assert 900 < sum(map(is_held_out, names)) < 1100


def test_small_classes_and_those_that_cannot_be_learnt_are_left_out() -> None:
    wavs = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(200)]
    kept, learnt = [w for w in wavs if is_held_out(w)], [w for w in wavs if not is_held_out(w)]
    clips = [FleetClip("all held out", w, A) for w in kept[:5]]
    clips += [FleetClip("few", w, A) for w in learnt[:3]]
    clips += [FleetClip("good", w, A) for w in [*learnt[3:6], kept[6]]]
    assert {c.label for c in in_classes_of(clips, Policy())} == {"good"}


def test_the_name_of_the_input_follows_what_decides_and_nothing_else() -> None:
    wavs = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(3)]
    clips = [FleetClip("bell", wav, A) for wav in wavs]
    name = input_sha256("p", clips, Policy())
    assert name == input_sha256("p", [FleetClip("bell", wav, B) for wav in wavs], Policy(min_clips=7))
    others = [
        input_sha256("q", clips, Policy()), input_sha256("p", clips[:2], Policy()),
        input_sha256("p", clips, Policy(epochs=3)),
        input_sha256("p", [FleetClip("dog", wav, A) for wav in wavs], Policy()),
    ]  # fmt: skip
    assert len({name, *others}) == 5


def test_the_folders_are_what_adapt_reads(sqlite_server: Server, tmp_path: Path) -> None:
    wavs = share(sqlite_server, A, "a/b.. c", 20) + share(sqlite_server, B, "dog", 20)
    said = lay_out(sqlite_server, tmp_path, usable(sqlite_server), alive=lambda: None)
    learnt, asked = list_clips(tmp_path / TRAIN), list_clips(tmp_path / HELD_OUT)
    assert (said["n_train"], said["n_held_out"]) == (len(learnt), len(asked)) and len(learnt) + len(asked) == 40
    assert {c.path.stem for c in learnt} | {c.path.stem for c in asked} == set(wavs)
    assert all(is_held_out(c.path.stem) for c in asked) and not any(is_held_out(c.path.stem) for c in learnt)
    assert len({c.group for c in learnt}) == len(learnt), "each record is a group of its own"
    rows = list(csv.reader((tmp_path / TRAIN / "meta.csv").open()))
    assert rows[0] == ["clip", "group"] and len(rows) == len(learnt) + 1
    again = lay_out(sqlite_server, tmp_path, usable(sqlite_server), alive=lambda: None)
    assert again == said == json.loads((tmp_path / "material.json").read_text())
    remove_recordings(tmp_path)
    assert not list(tmp_path.rglob("*.wav")) and (tmp_path / "material.json").exists()


def test_a_clip_that_is_withdrawn_meanwhile_is_left_out(sqlite_server: Server, tmp_path: Path) -> None:
    clips_before = share(sqlite_server, A, "bell", 5)
    clips = usable(sqlite_server)
    sqlite_server.blobs.remove(clips_before[0])
    assert lay_out(sqlite_server, tmp_path, clips, alive=lambda: None)["gone"] == 1


@given(st.lists(st.text(min_size=1, max_size=200), min_size=2, max_size=2, unique=True))
def test_folder_names_are_safe_and_tell_labels_apart(pair: list[str]) -> None:
    try:
        names = [folder_name(label) for label in pair]
    except UnicodeEncodeError:  # lone surrogates are no text that a device can send
        return
    assert len(set(names)) == 2
    for name in names:
        assert 1 <= len(name.encode()) <= 255 and "/" not in name and "\0" not in name and not name.startswith(".")


def test_new_clips_are_counted_from_the_last_job(any_engine_server: Server) -> None:
    server = any_engine_server
    share(server, A, "bell", 4)
    assert situation(server) == (4, {"bell": 4}, None, False)
    name = "0" * 64
    with transaction(server.engine) as session:
        session.add(Job(created_at=5.0, asked_by="me", status="failed", input_sha256=name))
    assert situation(server)[0] == 4 and situation(server)[2] == 5.0, "by time, where the folder is elsewhere"
    folder = server.data_dir / "jobs" / name
    folder.mkdir(parents=True)
    lay_out(server, folder, usable(server), alive=lambda: None)
    assert situation(server)[0] == 0
    share(server, A, "bell", 2, first=10)
    assert situation(server)[0] == 2
    with transaction(server.engine) as session:
        session.add(Job(created_at=6.0, asked_by="me"))
    assert situation(server)[3]


def test_without_the_hash_a_later_job_would_learn_what_an_earlier_one_asked() -> None:
    """The mechanism switched off: held out by rank within a class, recordings change sides as clips arrive."""
    wavs = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(40)]

    def by_rank(names: list[str]) -> set[str]:
        return set(sorted(names)[: len(names) // 4])

    first = wavs[:20]
    assert by_rank(first) != by_rank(wavs) & set(first)
    assert {w for w in first if is_held_out(w)} == {w for w in wavs if is_held_out(w)} & set(first)


@pytest.mark.parametrize("label", ["..", ".", "a/b", "a\\b", "ä", "~", "%2E", " x ", "x" * 300, "日本"])
def test_odd_labels_have_odd_names(label: str) -> None:
    assert folder_name(label) not in ("", ".", "..") and len(folder_name(label)) <= 160
