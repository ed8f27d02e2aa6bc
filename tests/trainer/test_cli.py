"""``soundkeep-trainer`` as a user runs it, with teachers and sounds made here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from tests.trainer.distillation.simulated_teachers import write_teachers
from tests.trainer.synthetic_sets import write_set
from trainer.backbones.checkpoint import load_checkpoint, save_checkpoint
from trainer.backbones.student import Student as Ear
from trainer.backbones.student import StudentSettings
from trainer.cli import main
from trainer.interruption import asked_to_stop


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


class House:
    """A user's folders: one set, teachers, and a small ear to start from so that training costs little."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set = write_set(folder / "data" / "sounds", n_classes=3, n_groups=4, seconds=1.2)
        self.teachers = write_teachers(folder / "teachers")
        torch.manual_seed(0)
        save_checkpoint(folder / "small", Ear(StudentSettings(widths=(6, 6, 8, 12, 16), dim=16)), {})

    def distil(self, out: Path, *more: str | Path) -> list[str]:
        teachers = [word for file in self.teachers for word in ("--teacher", str(file))]
        sizes = ["--shards", "2", "--shard-size", "8", "--steps", "6", "--batch-size", "8"]
        first = [
            "distil",
            "--data",
            str(self.set),
            *teachers,
            "--out",
            str(out),
            "--initial",
            str(self.folder / "small"),
        ]
        return [*first, *sizes, *(str(word) for word in more)]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def ear(house: House) -> Path:
    done = run(*house.distil(house.folder / "ear", "--keep-out"))
    assert done.exit_code == 0, done.output
    return house.folder / "ear"


def test_distil_makes_an_ear(ear: Path) -> None:
    model, meta = load_checkpoint(ear)
    assert meta["kept_out"] is True
    assert meta["n_clips_heard"] == 9
    assert meta["teachers"] == ["sound.onnx", "melspectrogram.onnx", "speech.onnx"]
    assert np.isfinite(model.project.weight.detach().numpy()).all()
    names = {p.name for p in ear.iterdir()}
    assert names == {
        "bank", "run.json", "losses.csv", "losses.png", "resume.safetensors", "model.safetensors", "checkpoint.json",
    }  # fmt: skip


def test_the_same_command_again_goes_on_and_more_steps_train_longer(house: House, ear: Path) -> None:
    before = (ear / "model.safetensors").read_bytes()
    shards = {p: p.stat().st_mtime_ns for p in (ear / "bank").glob("*.npz")}
    assert run(*house.distil(ear, "--keep-out")).exit_code == 0
    assert (ear / "model.safetensors").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in (ear / "bank").glob("*.npz")} == shards
    assert run(*house.distil(ear, "--keep-out", "--steps", "8")).exit_code == 0
    assert load_checkpoint(ear)[1]["steps"] == 8


def test_a_run_is_not_continued_with_other_data(house: House, ear: Path) -> None:
    refused = run(*house.distil(ear, "--keep-out", "--seed", "1"))
    assert refused.exit_code == 2
    assert "seed was 0, now 1" in refused.output
    other = run(*house.distil(ear))
    assert other.exit_code == 2
    assert "kept_out was True, now False" in other.output


def test_a_smaller_student_is_made_to_measure(house: House, ear: Path) -> None:
    words = house.distil(house.folder / "seedling", "--widths", "4,4,6,8,10", "--dim", "12")
    i = words.index("--initial")
    assert run(*words[:i], *words[i + 2 :]).exit_code == 0
    settings = load_checkpoint(house.folder / "seedling")[0].settings
    assert (settings.widths, settings.dim) == ((4, 4, 6, 8, 10), 12)
    for wrong in ("4,4", "4,4,6,8,x", "4,4,6,8,0"):
        assert "wanted 5 numbers" in run(*words[:i], *words[i + 2 : -4], "--widths", wrong).output
    assert "student was" in run(*words[:i], *words[i + 2 : -1], "16").output
    assert "leave them out" in run(*house.distil(house.folder / "other", "--dim", "12")).output


def test_evaluate_prints_one_object_and_null_where_the_set_is_too_small(house: House, ear: Path) -> None:
    done = CliRunner().invoke(main, ["evaluate", str(ear), "--data", str(house.set), "--episodes", "5"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["set"] == "sounds"
    assert 0.0 <= figures["readout"] <= 1.0
    assert figures["shots_5"] is None
    assert "held-out classes" in done.stderr


def test_evaluate_a_set_of_one_group_is_refused_in_a_sentence(house: House, ear: Path, tmp_path: Path) -> None:
    one = write_set(tmp_path / "one", n_classes=2, n_groups=1)
    refused = run("evaluate", ear, "--data", one)
    assert refused.exit_code == 1
    assert "are held out; wanted clips on both sides" in refused.output


def test_split_says_how_many(house: House, tmp_path: Path) -> None:
    done = run("split", "--data", house.set, "--out", tmp_path)
    assert done.exit_code == 0
    assert "sounds: 9 clips to train on, 3 held out" in done.output


def test_what_is_wrong_is_said_in_one_sentence_before_the_work(house: House, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.onnx").write_text("text")
    broken = write_set(tmp_path / "broken")
    (broken / sorted(p.name for p in broken.iterdir() if p.is_dir())[0] / "2.wav").write_bytes(b"RIFF")
    twin = write_set(tmp_path / "twin" / "sounds")
    cases: list[tuple[int, str, list[str | Path]]] = [
        (1, "no class folders", ["--data", tmp_path / "empty"]),
        (1, "2.wav", ["--data", broken]),
        (2, "different names", ["--data", twin]),
        (1, "no ONNX model", ["--teacher", tmp_path / "text.onnx"]),
        (1, "both a sound model", ["--teacher", house.teachers[0]]),
        (2, "smaller than one batch of 99", ["--batch-size", "99"]),
        (2, "names 'noise'", ["--set-weight", "noise=1"]),
        (2, "no NAME=NUMBER", ["--set-weight", "sounds=much"]),
        (2, "out of range", ["--set-weight", "sounds=-1"]),
        (2, "nothing to draw from", ["--set-weight", "sounds=0", "--set-weight", "synthetic=0"]),
        (1, "no checkpoint", ["--initial", tmp_path / "empty"]),
        (2, "Invalid value for '--steps'", ["--steps", "0"]),
        (2, "does not exist", ["--teacher", tmp_path / "absent.onnx"]),
    ]
    for i, (code, said, more) in enumerate(cases):
        done = run(*house.distil(tmp_path / f"out {i}", *more))
        assert (done.exit_code, said in done.output) == (code, True), (said, done.output)
        assert "Traceback" not in done.output
        assert not (tmp_path / f"out {i}" / "model.safetensors").exists()


def test_a_disk_that_cannot_be_written_is_the_worlds_refusal(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(*house.distil(tmp_path / "file" / "out"))
    assert done.exit_code == 1
    assert "Traceback" not in done.output


def test_speak_needs_espeak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("speak", "--out", tmp_path / "words")
    assert done.exit_code == 1
    assert "espeak-ng is not installed" in done.output


def test_ctrl_c_is_a_question_first_and_an_interrupt_then() -> None:
    with pytest.raises(KeyboardInterrupt), asked_to_stop() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("moment", ["bank", "training"])
def test_ctrl_c_stops_it_and_the_same_command_goes_on(house: House, tmp_path: Path, moment: str) -> None:
    out = tmp_path / "ear"
    sizes = ("--shards", "400") if moment == "bank" else ("--steps", "100000")
    reached = out / "bank" / "shard-00001.npz" if moment == "bank" else out / "losses.csv"
    program = [sys.executable, "-m", "trainer.cli", *house.distil(out, *sizes)]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not reached.exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(timeout=60) == 1, said
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    if moment == "training":
        assert (out / "resume.safetensors").exists()
    assert not list(out.rglob("*.tmp"))
    assert run(*house.distil(out)).exit_code == 0
