"""Training: resuming, what each term of the loss is for, and losses that are not finite."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from edge.errors import ConfigurationError
from tests.trainer.distillation.synthetic_banks import N_CAUSES, SMALL, linear_r2, settings, write_bank
from trainer.backbones.checkpoint import load_checkpoint
from trainer.backbones.student import Student, StudentSettings
from trainer.backbones.tiny_transformer import TinyTransformer, TinyTransformerSettings
from trainer.distillation.distil import RESUME, distil
from trainer.distillation.schedule import DistilSettings
from trainer.distillation.shards import Bank, shard_path
from trainer.errors import TrainingError
from trainer.loss_log import LossLog, plot_losses, read_losses


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bank(tmp_path_factory.mktemp("banks") / "bank", n_shards=4, shard_size=256)


def train(bank: Path, out: Path, s: DistilSettings, *, stop_after: int | None = None, **more: object) -> Student:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_after

    return distil(bank, out, settings=s, student_settings=SMALL, progress=False, stop=stop, **more)  # type: ignore[arg-type]


def embedded(model: Student, bank: Bank) -> NDArray[np.float32]:
    with torch.no_grad():
        return model.encode(torch.from_numpy(bank.arrays["log_mel"].astype(np.float32))).numpy()


def test_resumed_is_uninterrupted_bit_for_bit(bank: Path, tmp_path: Path) -> None:
    s = settings(checkpoint_every=8, word_label_weight=0.2)
    train(bank, tmp_path / "whole", s)
    for after in (3, 9, 30):
        try:
            train(bank, tmp_path / "pieces", s, stop_after=after)
        except TrainingError as stopped:
            assert "run the same command again" in str(stopped)
    for name in (RESUME, "model.safetensors"):
        whole, pieces = (load_file(tmp_path / run / name) for run in ("whole", "pieces"))
        assert whole.keys() == pieces.keys()
        assert all(torch.equal(whole[key], pieces[key]) for key in whole), name


def test_another_seed_is_another_ear(bank: Path, tmp_path: Path) -> None:
    a = train(bank, tmp_path / "a", settings(steps=3))
    b = train(bank, tmp_path / "b", settings(steps=3, seed=1))
    assert not torch.equal(a.project.weight, b.project.weight)


def test_the_loss_falls_and_its_course_is_written(bank: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    note: Callable[[int, Student], None] = lambda step, model: seen.append(step)  # noqa: E731
    s = settings(steps=150, warmup_steps=10, learning_rate=4e-3, checkpoint_every=100)
    model = train(bank, tmp_path, s, on_checkpoint=note, meta={"data": ["causes"]})
    rows = read_losses(tmp_path / "losses.csv")
    assert [row["step"] for row in rows] == ["50", "100", "150"]
    for key in ("sound", "speech", "sound_scores", "word_label"):
        assert float(rows[-1][key]) < float(rows[0][key]), key
    assert seen == [100, 150]
    back, meta = load_checkpoint(tmp_path)
    assert torch.equal(back.project.weight, model.project.weight)
    assert (meta["data"], meta["steps"], meta["n_windows_in_bank"]) == (["causes"], 150, 1024)
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")


def label_accuracy(x: NDArray[np.float32], labels: NDArray[np.int16]) -> float:
    design = np.hstack([x, np.ones((len(x), 1))])
    weights = np.linalg.lstsq(design[::2], np.eye(N_CAUSES)[labels[::2]], rcond=None)[0]
    return float(np.mean((design[1::2] @ weights).argmax(axis=1) == labels[1::2]))


def test_what_a_term_teaches_can_be_read_out_and_without_it_cannot(bank: Path, tmp_path: Path) -> None:
    """One ear learns from all teachers; each other ear misses one term, and the answer to it."""
    base = {
        "steps": 120, "batch_size": 32, "warmup_steps": 10, "learning_rate": 1e-2, "ema_decay": 0.9,
        "sound_weight": 1.0, "speech_weight": 1.0, "scores_weight": 10.0, "sound_label_weight": 1.0,
        "word_label_weight": 1.0, "label_smoothing": 0.0,
    }  # fmt: skip
    whole = Bank(bank)
    rows = whole.speech_index >= 0
    logits = np.log(whole.arrays["sound_scores"].astype(np.float32) / (1.0 - whole.arrays["sound_scores"]))

    def readable(name: str, **changes: float) -> dict[str, float]:
        x = embedded(train(bank, tmp_path / name, settings(**{**base, **changes})), whole)
        return {
            "sound_weight": linear_r2(x, whole.arrays["sound"]),
            "scores_weight": linear_r2(x, logits),
            "speech_weight": linear_r2(x[rows], whole.arrays["speech"]),
            "sound_label_weight": label_accuracy(x, whole.arrays["sound_label"][:, 0]),
            "word_label_weight": label_accuracy(x, whole.arrays["word_label"][:, 0]),
        }

    everything = readable("all")
    for weight, figure in everything.items():
        assert readable(weight, **{weight: 0.0})[weight] < figure - 0.1, weight


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    directory = write_bank(tmp_path / "bank")
    out = tmp_path / "run"
    with pytest.raises(TrainingError):
        train(directory, out, settings(), stop_after=4)
    before = (out / RESUME).read_bytes()
    with np.load(shard_path(directory, 0)) as shard:
        arrays = {key: shard[key] for key in shard.files}
    good = arrays["log_mel"].copy()
    arrays["log_mel"][:] = np.nan
    np.savez(shard_path(directory, 0), **arrays)
    with pytest.raises(TrainingError, match=r"not finite at step 4 \(.*lower learning rate") as refused:
        train(directory, out, settings())
    assert refused.value.exit_code == 1
    assert (out / RESUME).read_bytes() == before
    np.savez(shard_path(directory, 0), **{**arrays, "log_mel": good})
    assert all(torch.isfinite(p).all() for p in train(directory, out, settings(learning_rate=1e-4)).parameters())


def test_a_bank_without_answers_teaches_nothing(bank: Path, tmp_path: Path) -> None:
    nothing = settings(sound_weight=0.0, scores_weight=0.0, speech_weight=0.0, word_label_weight=0.0)
    with pytest.raises(TrainingError, match="no term"):
        train(bank, tmp_path, nothing)


def test_a_run_goes_on_only_with_its_own_student(bank: Path, tmp_path: Path) -> None:
    train(bank, tmp_path, settings(steps=2))
    with pytest.raises(TrainingError, match="does not continue this run") as refused:
        distil(
            bank, tmp_path, settings=settings(), progress=False,
            student_settings=StudentSettings(frontend=SMALL.frontend, widths=(4, 4, 4, 4, 4), dim=8),
        )  # fmt: skip
    assert "\n" not in str(refused.value)
    (tmp_path / RESUME).write_bytes(b"\0" * 100)
    with pytest.raises(TrainingError, match="does not continue this run"):
        train(bank, tmp_path, settings())


def test_initial_weights_are_where_it_starts(bank: Path, tmp_path: Path) -> None:
    first = train(bank, tmp_path / "first", settings(steps=5))
    still = settings(steps=1, learning_rate=1e-12)
    second = train(bank, tmp_path / "second", still, initial=first)
    assert torch.allclose(first.project.weight, second.project.weight, atol=1e-6)
    assert not torch.allclose(first.project.weight, train(bank, tmp_path / "third", still).project.weight, atol=1e-3)
    with pytest.raises(ConfigurationError, match="initial weights"):
        distil(bank, tmp_path / "fourth", settings=still, initial=first, progress=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_uses_the_gpu_and_resumes_on_it(bank: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        train(bank, tmp_path, settings(steps=60), stop_after=30)
    model = train(bank, tmp_path, settings(steps=60))
    assert next(model.parameters()).device.type == "cpu"
    assert len(read_losses(tmp_path / "losses.csv")) == 2


def test_the_log_drops_what_is_about_to_be_repeated(tmp_path: Path) -> None:
    path, now = tmp_path / "losses.csv", [0.0]
    log = LossLog(path, 0, clock=lambda: now[0])
    for step in range(1, 121):
        now[0] = float(step)
        log.add(step, {"a": float(step <= 50), **({"b": 2.0} if step > 60 else {})})
    with path.open("a") as f:
        f.write("150,1")
    assert [(r["step"], r["a"], r["b"]) for r in read_losses(path)] == [
        ("50", "1.00000", ""),
        ("100", "0.00000", "2.00000"),
    ]
    again = LossLog(path, 60, clock=lambda: now[0])
    assert [r["step"] for r in read_losses(path)] == ["50"]
    now[0] += 10.0
    again.add(70, {"a": 4.0}, last=True)
    assert read_losses(path)[-1] == {"step": "70", "seconds": "60.0", "a": "4.00000", "b": ""}
    plot_losses(path, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").exists()


def test_no_course_no_plot(tmp_path: Path) -> None:
    with (tmp_path / "losses.csv").open("w", newline="") as f:
        csv.writer(f).writerow(["step", "seconds", "a"])
    plot_losses(tmp_path / "losses.csv", tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()


def test_a_tiny_transformer_learns_and_goes_on_as_a_student_does(bank: Path, tmp_path: Path) -> None:
    four_frames = replace(SMALL.frontend, window_length=400 + 3 * 160)  # what the made bank holds
    settings_of_it = TinyTransformerSettings(frontend=four_frames, frames_per_token=1, dim=16)
    s = settings(steps=60, warmup_steps=5, learning_rate=8e-3, checkpoint_every=30)

    def run(out: Path, stop_after: int | None = None) -> Any:
        asked = iter(range(1, 10_000))
        stop = lambda: next(asked) == stop_after  # noqa: E731
        return distil(bank, out, settings=s, student_settings=settings_of_it, progress=False, stop=stop)

    whole = run(tmp_path / "whole")
    rows = read_losses(tmp_path / "whole" / "losses.csv")
    assert float(rows[-1]["sound"]) < float(rows[0]["sound"]) and whole.kind == "tiny_transformer"
    with pytest.raises(TrainingError, match="run the same command again"):
        run(tmp_path / "pieces", stop_after=20)
    pieces = run(tmp_path / "pieces")
    assert all(torch.equal(whole.state_dict()[key], value) for key, value in pieces.state_dict().items())
    back, _ = load_checkpoint(tmp_path / "whole")
    assert isinstance(back, TinyTransformer) and back.settings == settings_of_it
