"""Tiny public sets, laid out on the disk as their authors publish them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def tone(seed: int, n: int = 2000) -> np.ndarray:
    """A quiet tone with noise that no other seed gives."""
    rng = np.random.default_rng(seed)
    wave = np.sin(2.0 * np.pi * (200.0 + 37.0 * seed) * np.arange(n) / RATE)
    return (0.2 * wave + 0.02 * rng.standard_normal(n)).astype(np.float32)


def write_wav(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seed), RATE, subtype="PCM_16", format="WAV")


def write_sphere(path: Path, seed: int) -> None:
    """A NIST SPHERE file: a text header of 1024 bytes, then 16-bit samples, low byte first."""
    samples = np.rint(tone(seed) * 32767.0).astype("<i2")
    fields = [
        "NIST_1A",
        "   1024",
        "channel_count -i 1",
        f"sample_count -i {len(samples)}",
        f"sample_rate -i {RATE}",
        "sample_n_bytes -i 2",
        "sample_byte_format -s2 01",
        "sample_sig_bits -i 16",
        "end_head",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(fields) + "\n").encode("ascii").ljust(1024) + samples.tobytes())


def write_esc50(folder: Path, n_classes: int = 3, n_folds: int = 3) -> Path:
    rows = []
    for target in range(n_classes):
        for fold in range(1, n_folds + 1):
            name = f"{fold}-{100 * target + fold}-A-{target}.wav"
            write_wav(folder / "audio" / name, 10 * target + fold)
            rows.append([name, fold, target, f"sound {target}", target == 0, 100 * target + fold, "A"])
    columns = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    _write_table(folder / "meta" / "esc50.csv", columns, rows)
    return folder


def write_urbansound8k(folder: Path, n_classes: int = 2) -> Path:
    rows = []
    for kind in range(n_classes):
        for fold in range(1, 11):
            name = f"{1000 + fold}-{kind}-0-0.wav"
            write_wav(folder / "audio" / f"fold{fold}" / name, 20 * kind + fold)
            rows.append([name, 1000 + fold, 0.0, 4.0, 1, fold, kind, f"street {kind}"])
    columns = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]
    _write_table(folder / "metadata" / "UrbanSound8K.csv", columns, rows)
    return folder


def write_speech_commands(folder: Path) -> Path:
    for i, word in enumerate(("go", "stop", "_background_noise_")):
        for j, speaker in enumerate(("0a7c2a8d", "1b4c9b89")):
            for n in range(2):
                stem = f"noise_{j}{n}" if word.startswith("_") else f"{speaker}_nohash_{n}"
                write_wav(folder / word / f"{stem}.wav", 10 * i + 2 * j + n)
    return folder


SENTENCES = ("SA1", "SA2", "SX9", "SX99", "SI640")


def write_timit(folder: Path, n_speakers: int = 4) -> Path:
    for i in range(n_speakers):
        part, region = ("TRAIN", "DR1") if i % 2 == 0 else ("TEST", "DR4")
        for j, sentence in enumerate(SENTENCES):
            write_sphere(folder / part / region / f"MSP{i}" / f"{sentence}.WAV", 10 * i + j)
            (folder / part / region / f"MSP{i}" / f"{sentence}.TXT").write_text("0 100 text")
    return folder


def write_vocalset(folder: Path, n_techniques: int = 17, top: str = "FULL") -> Path:
    for s, singer in enumerate(("female1", "male3", "male7")):
        for t in range(n_techniques):
            for n in range(1 if t == 5 else 2):
                clip = folder / top / singer / "scales" / f"technique{t:02d}" / f"{s}_{t}_{n}.wav"
                write_wav(clip, 100 * s + 2 * t + n)
    return folder


def _write_table(path: Path, columns: list[str], rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as f:
        csv.writer(f).writerows([columns, *rows])
