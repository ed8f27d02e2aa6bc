"""Clips of the fleet heard again with a newer bundle: what devices would learn, in any number of shards."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import update

from edge.bundle import Bundle
from edge.clips import ClipStore, read_clip
from edge.embedder import Embedder
from edge.errors import CorruptionError, MisuseError
from edge.hearing import background_example, hear, sounding_example
from edge.records import BACKGROUND, Record
from edge.space import FeatureSpace
from edge.statistics import StatisticsAccumulator, SufficientStatistics
from tests.simulators.fleet_device import sound as taught
from tests.simulators.shared_clips import sound as played
from tests.simulators.shared_clips import wav_bytes
from tests.trainer.server.fleets import enrol, id_of, say, set_status, show
from trainer.cli import main
from trainer.server.database import transaction
from trainer.server.executor import LocalExecutor
from trainer.server.labels import set_rule
from trainer.server.opening import Server
from trainer.server.publishing import register_bundle
from trainer.server.rehearing import hear_again, shared_clips
from trainer.server.tables import Clip, PublishedBundle

KINDS = ("beep", "hum", "chirp", BACKGROUND)


def share(server: Server, device_id: str, record: Record, wav: bytes) -> None:
    """Let the server have the clip of a record."""
    name = server.blobs.put(wav)
    with transaction(server.engine) as session:
        session.add(
            Clip(
                device_id=device_id, content_sha256=record.content_sha256, wav_sha256=name, n_bytes=len(wav),
                received_at=4.0,
            )
        )  # fmt: skip


def clips_of(number: int) -> dict[str, bytes]:
    """Label to WAV file: what one device of the fleet taught, longer and shorter than a window."""
    wavs = {}
    for kind in KINDS[number % 2 :]:
        samples = played("hum" if kind == BACKGROUND else kind, number, seconds=0.6 + 0.5 * (number % 3))
        wavs[kind] = wav_bytes(samples * (0.05 if kind == BACKGROUND else 1.0))
    return wavs


@pytest.fixture
def fleet(sqlite_server: Server, small_bundle: Bundle) -> Server:
    """Five devices that hear with an old bundle and share clips; the server has a newer one."""
    register_bundle(sqlite_server, small_bundle)
    with transaction(sqlite_server.engine) as session:
        session.execute(update(PublishedBundle).values(status="published", published_at=5.0))
    for number in range(5):
        device, wavs = enrol(sqlite_server, f"device {number}"), clips_of(number)
        records = [taught(label, 10 * number + i) for i, label in enumerate(wavs)]
        say(sqlite_server, device, records)
        show(sqlite_server, device, records)
        for record in records:
            share(sqlite_server, device, record, wavs[record.label])
    return sqlite_server


def learnt(bundle: Bundle, numbers: list[int], names: dict[str, str] | None = None) -> SufficientStatistics:
    """What one device would know that heard all these clips by the rule of teaching."""
    embedder = Embedder(bundle)
    total = StatisticsAccumulator(SufficientStatistics.zero(FeatureSpace(bundle.space)))
    for number in numbers:
        for label, wav in clips_of(number).items():
            make = background_example if label == BACKGROUND else sounding_example
            example = make(hear(read_clip(io.BytesIO(wav))[0], embedder), {})
            total.add(example.embeddings, (names or {}).get(label, label))
    return total.snapshot()


def test_the_clips_teach_what_one_device_would_learn_in_any_number_of_shards(
    fleet: Server, small_bundle: Bundle
) -> None:
    wanted = learnt(small_bundle, [0, 1, 2, 3, 4])
    assert BACKGROUND in wanted.labels and len(wanted.labels) == 4
    for n_shards in (1, 2, 5, None):
        again = hear_again(fleet, small_bundle.space, LocalExecutor(), n_shards)
        assert again.statistics == wanted and again.statistics.sha256 == wanted.sha256
        assert (again.n_devices, again.n_records, again.n_left_out) == (5, 18, 0)
    with LocalExecutor(2) as executor:
        assert hear_again(fleet, small_bundle.space, executor).statistics == wanted


def test_a_device_that_moves_says_what_was_foretold(fleet: Server, small_bundle: Bundle) -> None:
    """When one device has taken the bundle, its statement and the clips of the others make the same sum."""
    every = hear_again(fleet, small_bundle.space, LocalExecutor()).statistics
    embedder, records = Embedder(small_bundle), []
    for label, wav in clips_of(3).items():
        make = background_example if label == BACKGROUND else sounding_example
        heard = make(hear(read_clip(io.BytesIO(wav))[0], embedder), {})
        records.append(Record(small_bundle.space.sha256, label, heard.embeddings))
    say(fleet, id_of("device 3"), records, revision=2, space=small_bundle.space)
    rest = hear_again(fleet, small_bundle.space, LocalExecutor())
    assert rest.n_devices == 4, "its clips are not heard twice"
    assert rest.statistics + learnt(small_bundle, [3]) == every


def test_names_of_the_operator_count_and_devices_that_do_not_count_are_left_out(
    fleet: Server, small_bundle: Bundle
) -> None:
    set_rule(fleet, "merge", "hum", "motor")
    set_status(fleet, id_of("device 2"), "quarantined")
    again = hear_again(fleet, small_bundle.space, LocalExecutor())
    assert again.statistics == learnt(small_bundle, [0, 1, 3, 4], {"hum": "motor"})
    set_rule(fleet, "private", "chirp")
    assert "chirp" not in {clip.label for clip in shared_clips(fleet, small_bundle.space)}


def test_clips_that_cannot_be_heard_are_counted(fleet: Server, small_bundle: Bundle) -> None:
    extra = {"silent": wav_bytes(np.zeros(16000, np.float32)), "gone": wav_bytes(played("beep", 77))}
    records = [taught(label, 500 + i) for i, label in enumerate((*extra, "fast"))]
    device = enrol(fleet, "odd")
    say(fleet, device, records)
    show(fleet, device, records)
    for record in records[:2]:
        share(fleet, device, record, extra[record.label])
    fast = bytearray(wav_bytes(played("beep", 78)))
    fast[24:28] = (44100).to_bytes(4, "little")
    share(fleet, device, records[2], bytes(fast))
    fleet.blobs.remove(fleet.blobs.put(extra["gone"]))
    again = hear_again(fleet, small_bundle.space, LocalExecutor())
    assert again.statistics == learnt(small_bundle, [0, 1, 2, 3, 4]) and again.n_left_out == 3


def test_a_damaged_clip_is_never_passed_over(fleet: Server, small_bundle: Bundle) -> None:
    name = fleet.blobs.put(clips_of(1)["hum"])
    path = fleet.data_dir / "blobs" / name[:2] / name
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    with pytest.raises(CorruptionError, match="does not match its hash"):
        hear_again(fleet, small_bundle.space, LocalExecutor())


def test_without_a_bundle_there_is_nothing_to_hear_with(fleet: Server, tmp_path: Path) -> None:
    from tests.simulators.fleet_device import SPACE

    with pytest.raises(MisuseError, match="no bundle that hears in space"):
        hear_again(fleet, SPACE, LocalExecutor())


def test_the_same_sound_from_a_device_and_from_its_upload(tmp_path: Path) -> None:
    """A device hears its kept clip, the server the file that it sent: the same samples."""
    store = ClipStore(tmp_path, max_bytes=1 << 20)
    store.keep("a" * 64, played("beep", 1), 16000)
    kept = store.load("a" * 64)
    sent = read_clip(io.BytesIO(next((tmp_path / "clips").glob("*.wav")).read_bytes()))
    assert kept is not None and np.array_equal(kept[0], sent[0]) and kept[1] == sent[1] == 16000


def test_show_tells_it_beside_the_sum(fleet: Server, small_bundle: Bundle) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(main, [*words, "--data", str(fleet.data_dir)])
        assert result.exit_code == 0, result.output
        return result.output

    words = ("fleet", "show", "--space", small_bundle.space.sha256[:12], "--from-clips")
    answer = json.loads(run("--json", *words, "--processes", "2"))
    wanted = learnt(small_bundle, [0, 1, 2, 3, 4])
    assert answer["n_devices"] == 0, "nobody took the bundle yet"
    assert answer["from_clips"] == {
        "statistics_sha256": wanted.sha256, "n_records": 18, "n_windows": wanted.n_samples, "n_classes": 3,
        "n_devices": 5, "n_left_out": 0,
    }  # fmt: skip
    assert "by hearing their clips again: 5 devices in other spaces, 3 classes, 18 examples (0 left out)" in run(*words)
    plain = json.loads(run("--json", "fleet", "show"))
    assert plain == json.loads(run("--json", "fleet", "verify", "--processes", "2", "--executor", "local"))
