"""The command line as a new user meets it: every command, its JSON, its exit codes, and what bad input gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge.bundle import Bundle, open_bundle
from edge.cli import COMMANDS, main
from edge.embedder import Embedder
from edge.journal import Journal
from tests.bundles import HOP_LENGTH, SAMPLE_RATE, TONES, WINDOW_LENGTH, noise, tone, write_tiny_bundle, write_wav

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def value(self) -> Any:
        (only,) = self.lines
        return only


@dataclass(frozen=True)
class Soundkeep:
    """The command on one state directory and one ear."""

    state: Path
    bundle: Path
    sounds: Path

    def __call__(self, *arguments: object, json_lines: bool = True) -> Done:
        options = ["--state", str(self.state), "--bundle", str(self.bundle), *(["--json"] if json_lines else [])]
        result = CliRunner().invoke(main, [*options, *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def sound(self, name: str) -> Path:
        return self.sounds / f"{name}.wav"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("ear") / "tiny", with_prior=True)


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for name, hz in TONES.items():
        for i in range(4):
            quiet = noise(0.5, rng, level=0.001)
            write_wav(folder / f"{name}{i}.wav", np.concatenate([quiet, tone(hz, 1.0, rng), quiet]))
    write_wav(folder / "hiss.wav", noise(2.0, rng))
    write_wav(folder / "mute.wav", np.zeros(SAMPLE_RATE, dtype=np.float32))
    return folder


@pytest.fixture
def sk(tmp_path: Path, tiny: Bundle, sounds: Path) -> Soundkeep:
    return Soundkeep(tmp_path / "state", tiny.path, sounds)


@pytest.fixture
def taught(sk: Soundkeep) -> Soundkeep:
    for name in ("bell", "hum"):
        assert sk("teach", name, sk.sound(f"{name}0"), sk.sound(f"{name}1")).code == 0
    return sk


# ---- the help -------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_imports_none_of_them() -> None:
    script = "import sys; from edge.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert not {"numpy", "onnxruntime", "edge.commands.teaching"} & set(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.stdout


# ---- the main job ---------------------------------------------------------------------------------------------------


def test_teach_and_classify(taught: Soundkeep) -> None:
    bell, hum, beep = (taught.sound(name) for name in ("bell2", "hum2", "beep0"))
    answers = taught("classify", bell, hum, beep).lines
    assert [set(answer) for answer in answers] == [{"file", "label", "score", "scores", "events"}] * 3
    assert [answer["label"] for answer in answers] == ["bell", "hum", None]
    assert [answer["file"] for answer in answers] == [str(bell), str(hum), str(beep)]
    assert set(answers[0]["scores"]) == {"bell", "hum"}
    assert all(0.0 <= score <= 1.0 for answer in answers for score in answer["scores"].values())
    (event,) = answers[0]["events"]
    assert event["label"] == "bell" and abs(event["onset_s"] - 0.5) < 0.3 and abs(event["offset_s"] - 1.5) < 0.5


def test_what_teach_answers(sk: Soundkeep) -> None:
    answer = sk("teach", " bell ", sk.sound("bell0"), sk.sound("bell1")).value
    assert answer["label"] == "bell" and answer["n_records"] == 2
    assert [record["file"] for record in answer["records"]] == [str(sk.sound("bell0")), str(sk.sound("bell1"))]
    assert all(len(record["id"]) == 64 and record["new"] and record["n_windows"] >= 1 for record in answer["records"])


def test_advice_is_for_people_and_changes_no_exit_code(sk: Soundkeep) -> None:
    sk("teach", "bell", sk.sound("bell0"))
    again = sk("teach", "bell", sk.sound("bell0"))
    assert again.code == 0 and "counts once" in again.err
    assert again.value["records"][0]["new"] is False and again.value["advice"][0]["kind"] == "duplicate"


def test_ignored_sounds_are_no_class(taught: Soundkeep) -> None:
    answer = taught("ignore", taught.sound("hiss")).value
    assert answer["label"] is None and answer["records"][0]["n_windows"] == 7
    assert [c["label"] for c in taught("classes").lines] == ["bell", "hum"]
    assert taught("memory", "verify").value["n_records"] == 5


def test_nothing_is_taught_yet(sk: Soundkeep) -> None:
    assert sk("classes").lines == []
    assert "nothing is taught yet" in sk("classes").err
    answer = sk("classify", sk.sound("bell0")).value
    assert (answer["label"], answer["score"], answer["scores"]) == (None, 0.0, {})
    assert not sk.state.exists()


# ---- classes --------------------------------------------------------------------------------------------------------


def test_rename_merge_forget_undo_and_history(taught: Soundkeep) -> None:
    def labels() -> list[str]:
        return [c["label"] for c in taught("classes").lines]

    before = taught("memory", "verify").value
    assert taught("rename", "hum", "fridge").code == 0 and labels() == ["bell", "fridge"]
    assert taught("merge-classes", "fridge", "bell").code == 0 and labels() == ["bell"]
    assert taught("forget", "bell").value["n_records"] == 4 and labels() == []
    for _ in range(3):
        assert taught("undo").code == 0
    assert taught("memory", "verify").value == before
    actions = [(entry["action"], entry["undone"]) for entry in taught("history").lines]
    assert actions == [
        *[("taught", False)] * 4, ("renamed", True), ("merged", True), ("forgotten", True),
    ]  # fmt: skip


def test_undo_takes_back_file_by_file(taught: Soundkeep) -> None:
    """One file is one example is one step of undo, also where one `teach` named several."""
    assert taught("undo").code == 0
    assert [(c["label"], c["n_records"]) for c in taught("classes").lines] == [("bell", 2), ("hum", 1)]
    for _ in range(3):
        assert taught("undo").code == 0
    assert taught("classes").lines == []
    nothing = taught("undo")
    assert nothing.code == 1 and "nothing can be undone" in nothing.err


def test_forget_one_record_by_the_beginning_of_its_id(taught: Soundkeep) -> None:
    record = taught("teach", "bell", taught.sound("bell2")).value["records"][0]["id"]
    assert taught("forget", "--record", record[:10]).value["n_records"] == 1
    assert taught("classes").lines[0]["n_records"] == 2


def test_forgetting_is_as_if_it_had_never_been_taught(taught: Soundkeep, tmp_path: Path) -> None:
    taught("forget", "bell")
    only = Soundkeep(tmp_path / "other", taught.bundle, taught.sounds)
    only("teach", "hum", only.sound("hum1"))
    only("teach", "hum", only.sound("hum0"))
    assert taught("memory", "verify").value == only("memory", "verify").value
    assert taught("classify", taught.sound("hum2")).out == only("classify", only.sound("hum2")).out


def test_a_purged_class_leaves_no_bytes(taught: Soundkeep, tiny: Bundle) -> None:
    with Journal.open(taught.state, space=tiny.space, read_only=True) as journal:
        records = journal.records()
        needle = next(r.embeddings.tobytes() for r in records.values() if r.label == "bell")[:40]
    present = [path for path in taught.state.rglob("*") if path.is_file() and needle in path.read_bytes()]
    assert present
    assert taught("forget", "bell", "--purge").value["purged"] is True
    assert not [path for path in taught.state.rglob("*") if path.is_file() and needle in path.read_bytes()]
    assert taught("undo").code == 1


def test_a_disabled_class_is_not_reported(taught: Soundkeep) -> None:
    assert taught("classes", "disable", "bell").value == {"label": "bell", "enabled": False}
    assert taught("classify", taught.sound("bell2")).value["label"] is None
    assert [c["enabled"] for c in taught("classes").lines] == [False, True]
    taught("classes", "enable", "bell")
    assert taught("classify", taught.sound("bell2")).value["label"] == "bell"


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_the_memory_file_does_not_depend_on_how_it_was_taught(sk: Soundkeep, tmp_path: Path) -> None:
    one, two, other = (Soundkeep(tmp_path / name, sk.bundle, sk.sounds) for name in ("one", "two", "other"))
    one("teach", "bell", one.sound("bell0"), one.sound("bell1"))
    one("teach", "hum", one.sound("hum0"))
    two("teach", "hum", two.sound("hum0"))
    two("teach", "junk", two.sound("beep0"))
    two("teach", "bell", two.sound("bell1"))
    two("forget", "junk")
    other("teach", "bell", other.sound("bell0"))
    for device in (one, two, other):
        assert device("memory", "export", tmp_path / f"{device.state.name}.skm").code == 0
    merged = two("memory", "import", tmp_path / "other.skm", tmp_path / "two.skm").value
    assert (merged["n_new"], merged["n_known"]) == (1, 2)
    two("memory", "export", tmp_path / "merged.skm")
    assert (tmp_path / "merged.skm").read_bytes() == (tmp_path / "one.skm").read_bytes()
    assert two("memory", "verify").value == one("memory", "verify").value
    assert set(one("memory", "verify").value) == {"statistics_sha256", "n_records", "n_windows", "n_classes"}


def test_a_memory_of_another_ear_is_refused(taught: Soundkeep, tmp_path: Path) -> None:
    taught("memory", "export", tmp_path / "memory.skm")
    ear = write_tiny_bundle(tmp_path / "ear", seed=1)
    other = Soundkeep(tmp_path / "other", ear.path, taught.sounds)
    refused = other("memory", "import", tmp_path / "memory.skm")
    assert refused.code == 1 and "space" in refused.err
    assert other("classes").lines == []


# ---- embeddings and backbones ---------------------------------------------------------------------------------------


def test_embed_writes_exactly_what_is_documented(sk: Soundkeep, tiny: Bundle, tmp_path: Path) -> None:
    short = write_wav(tmp_path / "short.wav", tone(900.0, 0.1, np.random.default_rng(0)))
    files = [str(sk.sound("bell0")), os.path.relpath(short), str(sk.sound("hum0"))]
    out = tmp_path / "embeddings"
    assert sk("embed", *files, "--out", out).value["n_windows"] == 15
    with np.load(out) as arrays:
        assert set(arrays.files) == {"embeddings", "file_index", "start_sample", "files"}
        assert arrays["embeddings"].shape == (15, tiny.space.dim) and arrays["embeddings"].dtype == np.float32
        assert arrays["files"].tolist() == files and arrays["files"].dtype.kind == "U"
        assert arrays["file_index"].tolist() == [0] * 7 + [1] + [2] * 7
        seven = [i * HOP_LENGTH for i in range(7)]
        assert arrays["start_sample"].tolist() == [*seven, 0, *seven]
        padded = np.zeros((1, WINDOW_LENGTH), dtype=np.float32)
        with wave.open(str(short)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2") / np.float32(32768)
        padded[0, : len(samples)] = samples
        np.testing.assert_array_equal(arrays["embeddings"][7], Embedder(tiny).embed(padded)[0])


def test_backbone_list_use_and_info(sk: Soundkeep, tmp_path: Path) -> None:
    ear = write_tiny_bundle(tmp_path / "another", seed=1)
    bare = [sys.executable, "-m", "edge", "--state", str(sk.state), "--json", "backbone"]

    def run(*arguments: str) -> Any:
        done = subprocess.run([*bare, *arguments], capture_output=True, text=True, cwd=REPOSITORY, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert run("use", str(ear.path)) == [{"name": "tiny", "path": str(ear.path)}]
    assert run("info") == [
        {
            "name": "tiny",
            "path": str(ear.path),
            "space": ear.space.sha256,
            "sample_rate": SAMPLE_RATE,
            "window": WINDOW_LENGTH,
            "hop": HOP_LENGTH,
            "dim": ear.space.dim,
        }
    ]
    assert isinstance(run("list"), list)
    assert sk("backbone", "info").value["path"] == str(sk.bundle)


def test_doctor_and_benchmark(taught: Soundkeep) -> None:
    checks = {check["name"]: check["state"] for check in taught("doctor").lines}
    assert checks["backbone"] == checks["memory"] == checks["state directory"] == checks["audio files"] == "ok"
    figures = taught("benchmark").value
    assert figures["embedding_ms"] > 0.0 and figures["teach_example_ms"] > 0.0 and figures["backbone"] == "tiny"


def test_doctor_names_what_fails_and_still_looks_at_the_rest(sk: Soundkeep, tmp_path: Path) -> None:
    broken = Soundkeep(sk.state, tmp_path / "no such bundle", sk.sounds)
    done = broken("doctor")
    checks = {check["name"]: check for check in done.lines}
    assert done.code == 1 and checks["backbone"]["state"] == "fail" and "no such bundle" in checks["backbone"]["detail"]
    assert checks["state directory"]["state"] == "ok"


# ---- words for people -----------------------------------------------------------------------------------------------


def test_without_json_the_answers_are_sentences(taught: Soundkeep) -> None:
    assert "bell  2 example(s)" in taught("classes", json_lines=False).out
    assert "bell2.wav: bell  (bell " in taught("classify", taught.sound("bell2"), json_lines=False).out
    assert "taught bell" in taught("history", json_lines=False).out
    assert "taken back: taught hum" in taught("undo", json_lines=False).out


# ---- misuse ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("teach",), ("teach", "bell"), ("teach", "bell", "x.wav", "--last", "3"), ("teach", "bell", "--last", "0"),
        ("teach", "bell", "--last", "many"), ("teach", "bell", "--last", "1", "--record", "1"), ("ignore",),
        ("classify",), ("rename", "bell"), ("merge-classes", "bell"), ("merge-classes", "bell", "bell"), ("forget",),
        ("forget", "bell", "--record", "0" * 64), ("forget", "never"), ("forget", "--record", "zz"),
        ("forget", "--record", "0" * 64), ("rename", "bell", "hum"), ("rename", "never", "x"), ("embed", "x.wav"),
        ("memory",), ("memory", "import"), ("backbone", "use"), ("nonsense",), ("listen", "--speed", "warp"),
        ("listen", "--api", "nowhere"), ("listen", "--source", ""), ("classes", "enable", "never"), ("--nonsense",),
    ],
)  # fmt: skip
def test_a_wrong_command_is_exit_2_and_changes_nothing(taught: Soundkeep, arguments: Sequence[str]) -> None:
    before = taught("memory", "verify").value
    done = taught(*arguments)
    assert done.code == 2 and done.out == "" and done.err.strip()
    assert taught("memory", "verify").value == before


@pytest.mark.parametrize("label", ["", "   ", "x" * 10_000, "a\nb", "\x00", "_background_", "\udcff"])
def test_a_label_that_is_none_is_exit_2(sk: Soundkeep, label: str) -> None:
    done = sk("teach", label, sk.sound("bell0"))
    assert done.code == 2 and done.err.startswith("soundkeep: label") and done.err.count("\n") == 1
    assert not sk.state.exists()


@pytest.mark.parametrize(
    "label", ["caf\u00e9", "\u96e8", "../../etc/passwd", "/", "C:\\x", "a b", "-", "x" * 200, "'; --"]
)
def test_any_other_text_is_a_label(sk: Soundkeep, label: str) -> None:
    assert sk("teach", "--", label, sk.sound("bell0")).value["label"] == label
    assert [c["label"] for c in sk("classes").lines] == [label]
    assert sk("classify", sk.sound("bell1")).value["label"] == label
    assert sk("forget", "--", label).code == 0


# ---- bad input ------------------------------------------------------------------------------------------------------


def text(path: Path) -> None:
    path.write_text("this is no audio")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    write_wav(path, tone(900.0, 1.0, np.random.default_rng(0)))
    path.write_bytes(path.read_bytes()[:-8000])


def no_samples(path: Path) -> None:
    write_wav(path, np.zeros(0, dtype=np.float32))


def one_sample(path: Path) -> None:
    write_wav(path, np.ones(1, dtype=np.float32))


def not_finite(path: Path) -> None:
    import soundfile

    soundfile.write(path, np.full(SAMPLE_RATE, np.nan, dtype=np.float32), SAMPLE_RATE, format="WAV", subtype="FLOAT")


def silent(path: Path) -> None:
    write_wav(path, np.zeros(SAMPLE_RATE, dtype=np.float32))


def missing(path: Path) -> None:
    """Nothing is written."""


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    "write",
    [text, empty, truncated, no_samples, one_sample, not_finite, silent, missing, folder],
    ids=lambda f: f.__name__,
)
def test_a_file_that_cannot_be_learnt_is_exit_1_and_one_sentence(
    taught: Soundkeep, tmp_path: Path, write: Callable[[Path], None]
) -> None:
    """All files or none: a good file beside the bad one is not learnt either."""
    bad = tmp_path / "bad.wav"
    write(bad)
    before = taught("memory", "verify").value
    for command in (("teach", "new", taught.sound("beep0"), bad), ("ignore", bad)):
        done = taught(*command)
        assert done.code == 1 and done.out == ""
        assert done.err.count("\n") == 1 and "bad.wav" in done.err and len(done.err) < 400
    assert taught("memory", "verify").value == before


def test_classify_goes_on_after_a_bad_file_and_ends_with_exit_1(taught: Soundkeep, tmp_path: Path) -> None:
    text(tmp_path / "bad.wav")
    done = taught("classify", taught.sound("bell2"), tmp_path / "bad.wav", taught.sound("hum2"), tmp_path / "none.wav")
    assert done.code == 1
    assert [answer["label"] for answer in done.lines] == ["bell", "hum"]
    assert done.err.count("\n") == 2 and "bad.wav" in done.err and "none.wav" in done.err


def test_digital_silence_is_unknown_and_no_event(taught: Soundkeep) -> None:
    answer = taught("classify", taught.sound("mute")).value
    assert (answer["label"], answer["events"]) == (None, [])


@pytest.mark.parametrize(
    ("subtype", "rate", "channels"),
    [("PCM_U8", 11025, 1), ("PCM_16", 192_000, 1), ("PCM_24", 44_100, 2), ("PCM_32", 48_000, 8), ("FLOAT", 22_050, 1)],
)
def test_any_format_is_the_same_sound(
    taught: Soundkeep, tmp_path: Path, subtype: str, rate: int, channels: int
) -> None:
    import soundfile

    t = np.arange(rate) / rate
    sound = 0.2 * sum(np.sin(2 * np.pi * 900.0 * k * t) / k for k in (1, 2, 3))
    frames = np.tile(np.asarray(sound)[:, None], (1, channels))
    soundfile.write(tmp_path / "x.wav", frames, rate, subtype=subtype)
    assert taught("classify", tmp_path / "x.wav").value["label"] == "bell"


def state_is_a_file(state: Path) -> None:
    state.write_text("x")


def state_is_newer(state: Path) -> None:
    import sqlite3

    Journal.open(state).close()
    with sqlite3.connect(state / "state.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def state_is_no_database(state: Path) -> None:
    state.mkdir()
    (state / "state.db").write_bytes(b"nothing of the kind" * 500)


@pytest.mark.parametrize("spoil", [state_is_a_file, state_is_newer, state_is_no_database], ids=lambda f: f.__name__)
def test_a_state_directory_that_cannot_be_used(sk: Soundkeep, spoil: Callable[[Path], None]) -> None:
    spoil(sk.state)
    done = sk("teach", "bell", sk.sound("bell0"))
    assert done.code == 1 and done.out == "" and str(sk.state) in done.err
    assert done.err.splitlines()[-1].startswith("soundkeep: ")


def test_a_state_directory_that_cannot_be_made(sk: Soundkeep) -> None:
    nowhere = Soundkeep(Path("/proc/soundkeep"), sk.bundle, sk.sounds)
    done = nowhere("teach", "bell", sk.sound("bell0"))
    assert done.code == 1 and "/proc/soundkeep" in done.err and done.err.count("\n") == 1


def test_a_state_held_by_another_writer_without_an_api(
    taught: Soundkeep, monkeypatch: pytest.MonkeyPatch, tiny: Bundle
) -> None:
    monkeypatch.setattr("edge.commands.workbench.WAIT_FOR_LOCK_SECONDS", 0.1)
    with Journal.open(taught.state, space=tiny.space):
        done = taught("teach", "new", taught.sound("beep0"))
        assert done.code == 1 and f"process {os.getpid()}" in done.err and done.err.count("\n") == 1
        assert [c["label"] for c in taught("classes").lines] == ["bell", "hum"], "reading goes on"


def test_settings_with_an_unknown_key(taught: Soundkeep) -> None:
    (taught.state / "soundkeep.toml").write_text("[decision]\ntreshold = 3\n")
    done = taught("classify", taught.sound("bell2"))
    assert done.code == 2 and "decision.treshold is not a setting" in done.err


def wrong_hash(bundle: Path) -> None:
    onnx = bundle / "backbone.onnx"
    data = bytearray(onnx.read_bytes())
    data[len(data) // 2] ^= 1
    onnx.write_bytes(data)


def missing_file(bundle: Path) -> None:
    (bundle / "MODEL_CARD.md").unlink()


def extra_file(bundle: Path) -> None:
    (bundle / "weights.bin").write_bytes(b"x")


def slipping_name(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"MODEL_CARD.md"', b'"../CARD.md"'))


def no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


@pytest.mark.parametrize(
    "spoil", [wrong_hash, missing_file, extra_file, slipping_name, no_manifest], ids=lambda f: f.__name__
)
def test_a_bundle_that_was_altered_is_never_used(
    taught: Soundkeep, tmp_path: Path, tiny: Bundle, spoil: Callable[[Path], None]
) -> None:
    import shutil

    copy = tmp_path / "ear"
    shutil.copytree(tiny.path, copy)
    assert open_bundle(copy).space == tiny.space
    spoil(copy)
    broken = Soundkeep(taught.state, copy, taught.sounds)
    for command in (
        ("teach", "x", taught.sound("beep0")),
        ("classify", taught.sound("bell2")),
        ("listen", "--source", "-"),
    ):
        done = broken(*command)
        assert done.code == 1 and done.out == "" and done.err.count("\n") == 1
    assert [c["label"] for c in taught("classes").lines] == ["bell", "hum"]


@pytest.mark.parametrize("damage", [b"", b"SKMEMORY", b"not a memory", "cut", "flip"])
def test_a_memory_file_that_was_damaged(taught: Soundkeep, tmp_path: Path, damage: bytes | str) -> None:
    path = tmp_path / "memory.skm"
    taught("memory", "export", path)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(damage if isinstance(damage, bytes) else bytes(data[:-10] if damage == "cut" else data))
    done = taught("memory", "import", path)
    assert done.code == 1 and "memory.skm" in done.err and done.err.count("\n") == 1


def test_a_chain_that_was_altered_is_named_and_the_rest_is_served(taught: Soundkeep) -> None:
    import sqlite3

    connection = sqlite3.connect(taught.state / "state.db")
    with connection:
        connection.execute("DROP TRIGGER payload_no_update")
        (seq,) = connection.execute("SELECT min(seq) FROM payload").fetchone()
        connection.execute("UPDATE payload SET embeddings = zeroblob(length(embeddings)) WHERE seq = ?", (seq,))
    connection.close()
    verified = taught("memory", "verify")
    assert verified.code == 1 and f"row {seq}" in verified.err
    assert taught("classify", taught.sound("hum2")).value["label"] == "hum"


def test_a_place_that_cannot_be_written(taught: Soundkeep) -> None:
    for command in (("memory", "export", "/proc/x.skm"), ("embed", taught.sound("bell0"), "--out", "/proc/x.npz")):
        done = taught(*command)
        assert done.code == 1 and "/proc/x" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [("teach", "x", "--last", "2"), ("teach", "x", "--record", "1"), ("ignore", "--last", "2"), ("wrong",)]
)
def test_what_needs_a_listener_says_so(sk: Soundkeep, arguments: Sequence[str]) -> None:
    done = sk(*arguments)
    assert done.code == 1 and "soundkeep listen" in done.err and done.err.count("\n") == 1


def test_listening_to_what_is_not_there(sk: Soundkeep) -> None:
    for source in ("/no/such/file.wav", "mic:no such microphone"):
        done = sk("listen", "--source", source, "--api", "off")
        assert done.code == 1 and done.out == "" and done.err.splitlines()[-1].startswith("soundkeep: ")


def test_a_replay_prints_every_event_and_ends(taught: Soundkeep) -> None:
    done = taught("listen", "--source", taught.sound("bell2"), "--speed", "max", "--api", "off")
    assert done.code == 0
    assert [(event["label"], event["phase"]) for event in done.lines] == [("bell", "onset"), ("bell", "offset")]
    assert "time" not in done.lines[0]


def test_the_live_path_and_classify_agree(taught: Soundkeep) -> None:
    live = taught("listen", "--source", taught.sound("hum3"), "--speed", "max", "--api", "off").lines
    whole = taught("classify", taught.sound("hum3")).value["events"]
    ends = sorted((e for e in live if e["phase"] == "offset"), key=lambda e: (e["onset_sample"], e["label"] or ""))
    assert [(e["label"], e["onset_s"], e["offset_s"]) for e in ends] == [
        (e["label"], e["onset_s"], e["offset_s"]) for e in whole
    ]
    np.testing.assert_allclose([e["score"] for e in ends], [e["score"] for e in whole], atol=1e-4)
