"""The bank: what a shard depends on, interruptions, and teachers that heard exactly what the student hears."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.errors import AudioError, BundleError, ConfigurationError
from tests.trainer.distillation.simulated_teachers import write_sound_teacher, write_teachers
from tests.trainer.distillation.synthetic_banks import write_bank
from tests.trainer.synthetic_sets import write_set
from trainer.backbones.log_mel import FrontEndSettings, LogMel
from trainer.datasets import Clip, list_clips
from trainer.distillation import bank as bank_module
from trainer.distillation.bank import fill_bank, make_shard
from trainer.distillation.drawing import NO_CLASS, BankSettings, LabelSpace, WindowDrawer, root_share, share_of_first
from trainer.distillation.shards import Bank, shard_path
from trainer.distillation.teachers import load_teachers
from trainer.errors import TrainingError

FRONTEND = FrontEndSettings()
SETTINGS = BankSettings(seed=5, shard_size=6, set_weights={"synthetic": 0.5})


class Material:
    def __init__(self, folder: Path) -> None:
        self.clips = list_clips(write_set(folder / "sounds", n_classes=10, seconds=1.2))
        self.clips += list_clips(write_set(folder / "words", words=True, seed=1))
        self.labels = LabelSpace.of(self.clips)
        self.teachers = write_teachers(folder / "teachers")

    def fill(self, directory: Path, n_shards: int, *, workers: int = 1, settings: BankSettings = SETTINGS) -> None:
        fill_bank(
            directory,
            n_shards,
            self.clips,
            self.teachers,
            labels=self.labels,
            frontend=FRONTEND,
            settings=settings,
            workers=workers,
            progress=False,
        )


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    torch.set_num_threads(1)
    return Material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def filled(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bank")
    material.fill(directory, 3)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(directory.glob("shard-*.npz"))}


def test_a_shard_depends_on_seed_and_number_alone(material: Material, filled: Path, tmp_path: Path) -> None:
    drawer = WindowDrawer(material.clips, FRONTEND, SETTINGS)
    teachers, features = load_teachers(material.teachers), LogMel(FRONTEND)
    for number in (2, 0):
        make_shard(tmp_path / f"{number}.npz", number, drawer, material.labels, teachers, features)
        assert (tmp_path / f"{number}.npz").read_bytes() == shard_path(filled, number).read_bytes()
    other = WindowDrawer(material.clips, FRONTEND, replace(SETTINGS, seed=6))
    make_shard(tmp_path / "other.npz", 0, other, material.labels, teachers, features)
    assert (tmp_path / "other.npz").read_bytes() != shard_path(filled, 0).read_bytes()


def test_several_processes_fill_the_same_bank(material: Material, filled: Path, tmp_path: Path) -> None:
    material.fill(tmp_path, 3, workers=2)
    assert contents(tmp_path) == contents(filled)


def test_an_interrupted_fill_goes_on_to_identical_shards(
    material: Material, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    class Interrupting(LogMel):
        def forward(self, waveform: torch.Tensor) -> torch.Tensor:
            nonlocal asked
            asked += 1
            if asked == 2:
                raise KeyboardInterrupt
            return super().forward(waveform)

    with monkeypatch.context() as patched:
        patched.setattr(bank_module, "LogMel", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            material.fill(tmp_path, 3)
    assert list(contents(tmp_path)) == ["shard-00000.npz"]
    material.fill(tmp_path, 3)
    assert contents(tmp_path) == contents(filled)
    assert not list(tmp_path.glob("*.tmp"))


def test_teachers_and_student_heard_the_same_window(material: Material, filled: Path) -> None:
    """Draw shard 1 once more and ask both sides again; a window drawn otherwise has other answers."""
    rng = np.random.default_rng([SETTINGS.seed, 1])
    drawer = WindowDrawer(material.clips, FRONTEND, SETTINGS)
    windows, draws, asked = [], [], []
    for _ in range(SETTINGS.shard_size):
        window, first, second, share = drawer.draw(rng)
        spoken = any(c is not None and c.word for c in (first, second))
        windows.append(window)
        draws.append((first, second, share))
        asked.append(spoken or rng.random() < SETTINGS.p_speech_teacher)
    audio = np.stack(windows)
    teachers = load_teachers(material.teachers)
    with np.load(shard_path(filled, 1)) as shard:
        with torch.no_grad():
            log_mel = LogMel(FRONTEND)(torch.from_numpy(audio)).numpy()
        np.testing.assert_allclose(shard["log_mel"], log_mel, atol=0.01)
        sound = teachers["sound"].targets(audio)
        np.testing.assert_allclose(shard["sound"], sound["sound"], rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(shard["sound_scores"], sound["sound_scores"], atol=1e-3)
        np.testing.assert_array_equal(shard["speech_rows"], np.flatnonzero(asked))
        speech = teachers["speech"].targets(audio[shard["speech_rows"]])["speech"]
        np.testing.assert_allclose(shard["speech"], speech, rtol=1e-2, atol=1e-2)
        assert not np.allclose(shard["sound"][::-1], sound["sound"], rtol=1e-2)
        for i, (first, second, share) in enumerate(draws):
            assert shard["share"][i] == np.float32(share)
            for j, clip in enumerate((first, second)):
                pair = (int(shard["sound_label"][i, j]), int(shard["word_label"][i, j]))
                assert pair == material.labels.indices(clip)


def test_labels_are_classes_of_broad_sets_and_words() -> None:
    few = [Clip(Path(f"{i}.wav"), "few", f"kind {i}", "g") for i in range(9)]
    many = [Clip(Path(f"{i}.wav"), "many", f"class {i}", "g") for i in range(10)]
    spoken = [Clip(Path("a.wav"), "spoken", "yes", "g", "yes"), Clip(Path("b.wav"), "spoken", "_noise_", "g")]
    labels = LabelSpace.of([*few, *many, *spoken])
    assert labels.sounds == tuple(sorted(c.label for c in many))
    assert labels.words == ("yes",)
    assert labels.indices(many[3]) == (3, NO_CLASS)
    assert labels.indices(spoken[0]) == (NO_CLASS, 0)
    assert labels.indices(spoken[1]) == labels.indices(few[0]) == labels.indices(None) == (NO_CLASS, NO_CLASS)


def test_shares_fall_with_the_ratio_and_are_fair_between_classes() -> None:
    assert share_of_first(-2.0) == 0.5
    assert share_of_first(20.0) > 0.99
    assert share_of_first(-3.0) < 0.5
    np.testing.assert_allclose(root_share([1, 4]), [1 / 3, 2 / 3])


def test_sets_are_drawn_by_their_weights(material: Material) -> None:
    drawer = WindowDrawer(
        material.clips,
        FRONTEND,
        BankSettings(set_weights={"sounds": 3.0, "words": 1.0}, p_mix=0.0, p_reverberation=0.0),
    )
    rng = np.random.default_rng(0)
    drawn = [drawer.draw(rng) for _ in range(200)]
    from_words = sum(first is not None and first.set_name == "words" for _, first, _, _ in drawn)
    assert 30 <= from_words <= 70
    assert all(second is None and share == 1.0 for _, _, second, share in drawn)


def test_nothing_to_draw_from_is_said(material: Material) -> None:
    with pytest.raises(ConfigurationError, match="nothing to draw from"):
        WindowDrawer([], FRONTEND, BankSettings())
    with pytest.raises(ConfigurationError, match="nothing to draw from"):
        WindowDrawer(material.clips, FRONTEND, BankSettings(set_weights={"sounds": 0.0, "words": 0.0}))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_clip_is_named(material: Material, tmp_path: Path, workers: int) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio at all")
    with pytest.raises(AudioError, match=r"bad\.wav"):
        fill_bank(
            tmp_path / "bank",
            2,
            [Clip(bad, "set", "class", "g")],
            material.teachers,
            labels=LabelSpace((), ()),
            frontend=FRONTEND,
            settings=SETTINGS,
            workers=workers,
            progress=False,
        )


def test_a_shard_without_speech_is_a_shard(material: Material, tmp_path: Path) -> None:
    silent = BankSettings(
        shard_size=2, set_weights={"sounds": 0.0, "words": 0.0, "synthetic": 1.0}, p_speech_teacher=0.0
    )
    material.fill(tmp_path, 1, settings=silent)
    whole = Bank(tmp_path)
    assert whole.arrays["speech"].shape == (0, 288)
    assert not whole.batch(np.arange(2))["speech_mask"].any()
    assert all(np.isfinite(m).all() for m in whole.moments("speech"))


def test_reading_puts_every_row_where_it_was(tmp_path: Path) -> None:
    directory = write_bank(tmp_path / "bank", n_shards=3, shard_size=20)
    bank = Bank(directory)
    assert bank.n == 60
    assert bank.n_bytes > 60 * 16 * 16 * 2
    for number in range(3):
        with np.load(shard_path(directory, number)) as shard:
            batch = bank.batch(np.arange(20 * number, 20 * number + 20))
            np.testing.assert_array_equal(batch["log_mel"], shard["log_mel"].astype(np.float32))
            np.testing.assert_array_equal(np.flatnonzero(batch["speech_mask"]), shard["speech_rows"])
            np.testing.assert_array_equal(batch["speech"][batch["speech_mask"]], shard["speech"].astype(np.float32))
            np.testing.assert_array_equal(batch["sound_label"], shard["sound_label"])


def test_a_damaged_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no shards"):
        Bank(tmp_path)
    directory = write_bank(tmp_path / "bank")
    whole = shard_path(directory, 1).read_bytes()
    shard_path(directory, 1).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"shard-00001\.npz is no readable shard.*delete it"):
        Bank(directory)
    with np.load(shard_path(directory, 0)) as shard:
        np.savez(shard_path(directory, 1), **{k: shard[k] for k in shard.files if not k.startswith("speech")})
    with pytest.raises(TrainingError, match="differ in speech"):
        Bank(directory)
    shard_path(directory, 1).unlink()
    (directory / "bank.json").write_text("[]")
    with pytest.raises(TrainingError, match=r"bank\.json"):
        Bank(directory)


def test_teachers_are_recognised_by_their_graphs(material: Material, tmp_path: Path) -> None:
    sound, mel, speech = material.teachers
    assert set(load_teachers([speech, sound, mel])) == {"sound", "speech"}
    assert set(load_teachers([sound])) == {"sound"}
    answers = load_teachers([mel, speech])["speech"].targets(np.zeros((3, 16000), np.float32))
    assert answers["speech"].shape == (3, 288)
    refusals = {
        "pair": [sound, speech],
        "both a sound model": [sound, sound],
        "no ONNX model": [tmp_path / "text.onnx"],
        "not finite": [write_sound_teacher(tmp_path, nan=True)],
    }
    (tmp_path / "text.onnx").write_text("text")
    for said, files in refusals.items():
        with pytest.raises(BundleError, match=said) as refused:
            load_teachers(files)
        assert "\n" not in str(refused.value)
    with pytest.raises(BundleError, match="does not answer to a window of 9000 samples"):
        load_teachers([sound], window_length=9000)


def test_the_real_teachers_know_a_sound_and_a_word(shared_models: Path) -> None:
    files = [
        shared_models / f"{name}.onnx"
        for name in ("yamnet_waveform_to_embedding", "speech_melspectrogram", "speech_embedding")
    ]
    teachers = load_teachers(files)
    windows = np.random.default_rng(0).standard_normal((2, 16000)).astype(np.float32) * np.float32(0.05)
    sound, speech = teachers["sound"].targets(windows), teachers["speech"].targets(windows)
    assert sound["sound"].shape == (2, 1024)
    assert sound["sound_scores"].shape == (2, 521)
    assert speech["speech"].shape == (2, 288)
    assert np.isfinite(speech["speech"]).all()
