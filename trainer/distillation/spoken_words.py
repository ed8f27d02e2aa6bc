"""Spoken words for variety: espeak-ng says a vocabulary in many voices, speeds and pitches into a class-folder set."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
from tqdm import tqdm

from trainer.errors import TrainingError

VOCABULARY = """
zero one two three four five six seven eight nine yes no up down left right on off stop go backward bed bird cat dog
follow forward happy house learn marvin sheila tree visual wow hello computer kitchen window water coffee garden
music light dark open close start pause volume louder quiet morning evening today tomorrow weather timer alarm door
doorbell please thanks sorry maybe never always battery camera picture number letter orange purple yellow silver
monday friday sunday january october hundred thousand minute second hour people person children mother father
brother sister doctor teacher market station airport hospital office table chair pillow blanket mirror button
pocket jacket bottle sugar pepper butter cheese banana tomato potato chicken dinner breakfast hey jarvis robot
mercury jupiter emergency help fire police"""
WORDS = tuple(VOCABULARY.split())
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
FEMALE = ("+f1", "+f2", "+f3", "+f4", "+f5")
MALE = ("+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8")
VARIANTS = ("", *FEMALE, *MALE, "+klatt2", "+klatt4")


def speak_words(directory: Path, *, voices_per_word: int, seed: int = 0) -> int:
    """Write ``<word>/<n>.wav`` and ``meta.csv`` (clip, class, fold_or_speaker, seconds, word). Returns how many clips.

    The voice is the group. Raises TrainingError when espeak-ng is not installed or fails.
    """
    if shutil.which("espeak-ng") is None:
        raise TrainingError(
            "espeak-ng is not installed; install it (Debian: apt install espeak-ng), or leave this set out"
        )
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str, str, str, str]] = []
    for word in tqdm(WORDS, desc="speak", unit="word"):
        (directory / word).mkdir(parents=True, exist_ok=True)
        for i in range(voices_per_word):
            voice = str(rng.choice(ACCENTS)) + str(rng.choice(VARIANTS))
            options = ["-v", voice, "-s", str(int(rng.integers(110, 210))), "-p", str(int(rng.integers(20, 85)))]
            name = f"{word}/{i:02d}.wav"
            command = ["espeak-ng", *options, "-w", str(directory / name), word]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                raise TrainingError(f"{' '.join(command)} failed ({done.stderr.strip()}); install espeak-ng's voices")
            rows.append((name, word, voice, "", word))
    with (directory / "meta.csv").open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("clip", "class", "fold_or_speaker", "seconds", "word"), *rows])
    return len(rows)
