"""Sets whose folders and file names say everything: Speech Commands, TIMIT and VocalSet."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from edge.errors import AudioError
from trainer.datasets import Clip

COMMAND_FILE = re.compile(r"(?P<speaker>[0-9a-z]+)_nohash_\d+")
VOCALSET_TECHNIQUES = 16


def read_speech_commands(directory: Path) -> list[Clip]:
    """``<word>/<speaker>_nohash_<n>.wav``: label = word, group = speaker; ``_background_noise_`` is left out.

    Raises AudioError. Source: Warden 2018 (version 2: 35 words).
    """
    clips = []
    for path in sorted(directory.glob("*/*.wav")):
        named = COMMAND_FILE.fullmatch(path.stem)
        if named and not path.parent.name.startswith("_"):
            word = path.parent.name
            clips.append(Clip(path, "speech_commands", word, named["speaker"], word))
    return _some(clips, directory, "<word>/<speaker>_nohash_<n>.wav", "Speech Commands")


def read_timit(directory: Path) -> list[Clip]:
    """``TRAIN|TEST/DR?/<SPEAKER>/<SENTENCE>.WAV`` in any case: label = speaker, group = sentence (SA1, SX123, ...).

    The published files are NIST SPHERE; where a converted ``.WAV.wav`` lies beside one, that is taken. Raises
    AudioError. Source: Garofolo et al. 1993: 630 speakers of 10 sentences, of which all speak SA1 and SA2.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(directory.rglob("*")):
        parts = [part.upper() for part in path.relative_to(directory).parts]
        if len(parts) < 4 or parts[-4] not in ("TRAIN", "TEST") or not re.fullmatch(r"DR\d", parts[-3]):
            continue
        if not parts[-1].endswith(".WAV"):
            continue
        speaker, converted = parts[-2], parts[-1].endswith(".WAV.WAV")
        key = speaker, parts[-1].split(".")[0]
        if converted or key not in found:
            found[key] = path
    clips = [Clip(path, "timit", speaker, sentence) for (speaker, sentence), path in found.items()]
    return _some(sorted(clips, key=lambda c: c.path), directory, "TRAIN/DR1/<SPEAKER>/<SENTENCE>.WAV", "TIMIT")


def read_vocalset(directory: Path) -> list[Clip]:
    """``FULL/<singer>/<context>/<technique>/*.wav`` or ``data_by_singer/...``: label = technique, group = singer.

    The set has 17 techniques, PACE used 16 and does not say which: here the 16 with most clips (ties by name). Raises
    AudioError. Source: Wilkins et al. 2018.
    """
    clips: list[Clip] = []
    for top in ("FULL", "data_by_singer"):
        for path in sorted((directory / top).rglob("*.wav")):
            parts = path.relative_to(directory / top).parts
            if len(parts) == 4 and not path.name.startswith("."):
                clips.append(Clip(path, "vocalset", parts[2], parts[0]))
        if clips:
            break
    _some(clips, directory, "FULL/<singer>/<context>/<technique>/<clip>.wav", "VocalSet")
    counts = Counter(clip.label for clip in clips)
    kept = sorted(counts, key=lambda label: (-counts[label], label))[:VOCALSET_TECHNIQUES]
    return [clip for clip in clips if clip.label in kept]


def _some(clips: list[Clip], directory: Path, where: str, name: str) -> list[Clip]:
    if not clips:
        raise AudioError(
            f"{directory} holds no clip of {name}; wanted {where} inside, as its authors publish it; give that folder, "
            f"or use --set folder for class folders"
        )
    return clips
