"""Folders of recordings, embedded once: every window on the grid, with what is known of the clip it came from.

The cache is one file per set, named after the embedding space and the list of recordings: another backbone, another
hop or another recording never meets old numbers, while a bundle with only another prior finds them again.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.audio import read_audio
from edge.embedder import Embedder
from edge.errors import AudioError
from edge.space import EmbeddingSpace, FeatureSpace
from edge.statistics import SufficientStatistics
from edge.windows import carries_sound, is_digital_silence, windows_of
from trainer.datasets import Clip, is_held_out, list_clips

Bools = NDArray[np.bool_]
Names = NDArray[np.str_]
Samples = NDArray[np.float32]
STREAM_SETS = ("background_long", "running_speech")
QUICK_CLIPS = 8
TEN_WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")


@dataclass(frozen=True, eq=False)
class Clips:
    """What is known of m recordings; every array is (m,).

    labels: class folders. words: what is spoken, or "". groups: fold, speaker or source file. sources: the original
    recording that a clip was cut from, where the set says so, else the group. held_out: neither ear nor prior heard it.
    seconds: length of the audio.
    """

    paths: tuple[Path, ...]
    sets: Names
    labels: Names
    words: Names
    groups: Names
    sources: Names
    held_out: Bools
    seconds: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False)
class Embedded:
    """Windows of recordings on the grid, ordered by clip and time.

    features: (n, d) int16. clip: (n,) index into ``clips``. starts: (n,) samples. sounding: (n,) windows that carry
    sound, by the rule of teaching. audible: (n,) windows that are not digital silence.
    """

    space: EmbeddingSpace
    clips: Clips
    features: NDArray[np.int16]
    clip: NDArray[np.int64]
    starts: NDArray[np.int64]
    sounding: Bools
    audible: Bools

    def rows(self, clips: Iterable[int], mask: Bools | None = None) -> NDArray[np.int64]:
        """Indices of the windows of some clips, in the order given; ``mask`` (n,) keeps only some of them."""
        edges = np.searchsorted(self.clip, np.arange(len(self.clips) + 1))
        parts = [np.arange(edges[c], edges[c + 1]) for c in clips]
        rows = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return np.asarray(rows if mask is None else rows[mask[rows]], dtype=np.int64)

    def where(self, *, sets: Sequence[str], held_out: bool | None = None, labels: Sequence[str] = ()) -> list[int]:
        """Indices of clips of some sets, on one side of the split or both, of some classes or all."""
        chosen = np.isin(self.clips.sets, list(sets))
        if held_out is not None:
            chosen &= self.clips.held_out == held_out
        if labels:
            chosen &= np.isin(self.clips.labels, list(labels))
        return [int(i) for i in np.flatnonzero(chosen)]

    def statistics(self, rows: NDArray[np.int64], labels: Names) -> SufficientStatistics:
        """Sum up some windows; ``labels`` (len(rows),)."""
        names = [str(label) for label in labels]
        return SufficientStatistics.from_samples(FeatureSpace(self.space), self.features[rows], names)


def embed_sets(
    embedder: Embedder, folders: Sequence[Path], *, cache: Path, names: Sequence[str] = (), max_clips: int | None = None
) -> Embedded:
    """Embed the sets under some folders of sets, or read them from the cache.

    folders: each holds sets, ``<folder>/<set>/<class>/<clip>``. names: sets to take, all when empty. max_clips: at most
    so many clips of each class and side of the split, for a quick run. Raises AudioError when there is no set.
    """
    sets = [s for folder in folders for s in sorted(folder.iterdir()) if s.is_dir() and (not names or s.name in names)]
    if not sets:
        wanted = f" called {' or '.join(names)}" if names else ""
        raise AudioError(f"{', '.join(map(str, folders))} holds no set{wanted}; wanted DIR/<set>/<class>/<clip>.flac")
    return joined([_embed_set(embedder, _thinned(list_clips(s), max_clips), cache) for s in sets])


def embed_changed(
    embedder: Embedder,
    data: Embedded,
    clips: Sequence[int],
    change: Callable[[int, Samples], Samples],
    name: str,
    cache: Path,
) -> Embedded:
    """Embed some clips again after ``change(clip, samples)``, which must be a pure function that ``name`` stands for.

    The result has the same clips as ``data``; those not asked for have no windows.
    """
    paths = [data.clips.paths[c] for c in clips]
    arrays = _cached(embedder, paths, cache, name, lambda i, x: change(clips[i], x))
    return Embedded(
        data.space, data.clips, arrays["features"], np.asarray(clips, dtype=np.int64)[arrays["clip"]], arrays["starts"],
        arrays["sounding"], arrays["audible"],
    )  # fmt: skip


def joined(parts: Sequence[Embedded]) -> Embedded:
    """Put sets of one embedding space together."""
    first = parts[0]
    offsets = np.cumsum([0, *(len(p.clips) for p in parts)])
    clips = Clips(
        tuple(path for p in parts for path in p.clips.paths),
        *(
            np.concatenate([getattr(p.clips, field) for p in parts])
            for field in ("sets", "labels", "words", "groups", "sources", "held_out", "seconds")
        ),
    )
    return Embedded(
        first.space,
        clips,
        np.concatenate([p.features for p in parts]),
        np.concatenate([p.clip + offset for p, offset in zip(parts, offsets[:-1], strict=True)]),
        *(np.concatenate([getattr(p, field) for p in parts]) for field in ("starts", "sounding", "audible")),
    )


def prior_rows(data: Embedded, clips: Sequence[int]) -> NDArray[np.int64]:
    """Windows that a shipped prior takes of some clips: of streams all that is audible, of clips what carries sound."""
    stream = np.isin(data.clips.sets, STREAM_SETS)[data.clip]
    return data.rows(clips, np.where(stream, data.audible, data.sounding))


def prior_labels(data: Embedded, rows: NDArray[np.int64]) -> Names:
    """Classes of a prior, as the exporter names them: the set and the folder in it."""
    clip = data.clip[rows]
    return np.char.add(np.char.add(data.clips.sets[clip], "/"), data.clips.labels[clip])


def prior_of(data: Embedded, clips: Sequence[int]) -> SufficientStatistics:
    """Prior statistics of some clips."""
    rows = prior_rows(data, clips)
    return data.statistics(rows, prior_labels(data, rows))


def _thinned(clips: Sequence[Clip], most: int | None) -> list[Clip]:
    """Keep at most so many clips of each class and side of the split, spread over the list and so over the groups."""
    if most is None:
        return list(clips)
    members: dict[tuple[str, bool], list[int]] = {}
    for i, clip in enumerate(clips):
        members.setdefault((clip.label, is_held_out(clip)), []).append(i)
    kept = {own[(k * len(own)) // most] for own in members.values() for k in range(most)}
    return [clips[i] for i in sorted(kept)]


def _embed_set(embedder: Embedder, clips: Sequence[Clip], cache: Path) -> Embedded:
    arrays = _cached(embedder, [c.path for c in clips], cache, clips[0].set_name, lambda _, x: x)
    described = Clips(
        tuple(c.path for c in clips),
        np.array([c.set_name for c in clips]),
        np.array([c.label for c in clips]),
        np.array([c.word for c in clips]),
        np.array([c.group for c in clips]),
        np.array(_sources(clips)),
        np.array([is_held_out(c) for c in clips]),
        arrays["seconds"],
    )
    return Embedded(
        embedder.space, described, *(arrays[k] for k in ("features", "clip", "starts", "sounding", "audible"))
    )


def _sources(clips: Sequence[Clip]) -> list[str]:
    table = clips[0].path.parent.parent / "meta.csv"
    found: dict[str, str] = {}
    if table.exists():
        with table.open(newline="", encoding="utf-8") as f:
            found = {row["clip"]: row.get("source_recording") or "" for row in csv.DictReader(f)}
    return [found.get(f"{c.path.parent.name}/{c.path.name}") or c.group for c in clips]


def _cached(
    embedder: Embedder, paths: Sequence[Path], cache: Path, name: str, change: Callable[[int, Samples], Samples]
) -> dict[str, Any]:
    listing = "\n".join(f"{p.parent.parent.name}/{p.parent.name}/{p.name} {p.stat().st_size}" for p in paths)
    key = hashlib.sha256(f"{embedder.space.sha256}\n{name}\n{listing}".encode()).hexdigest()
    file = cache / f"{name}-{key[:20]}.npz"
    if not file.exists():
        arrays = _embed(embedder, paths, name, change)
        cache.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        with beside.open("wb") as f:
            np.savez(f, **arrays)
        beside.replace(file)
    with np.load(file, allow_pickle=False) as stored:
        return {k: stored[k] for k in stored.files}


def _embed(
    embedder: Embedder, paths: Sequence[Path], name: str, change: Callable[[int, Samples], Samples]
) -> dict[str, Any]:
    space = embedder.space
    features, index, starts, sounding, audible, seconds = [], [], [], [], [], []
    for i, path in enumerate(paths):
        samples = change(i, read_audio(path, space.sample_rate))
        begin, windows = windows_of(samples, space.window_length, space.hop_length)
        heard = np.array([not is_digital_silence(w) for w in windows], dtype=np.bool_)
        embedded = np.zeros((len(windows), space.dim), dtype=np.int16)
        embedded[heard] = embedder.quantized(windows[heard])[0]
        features.append(embedded)
        index.append(np.full(len(windows), i, dtype=np.int64))
        starts.append(begin)
        sounding.append(carries_sound(windows))
        audible.append(heard)
        seconds.append(len(samples) / space.sample_rate)
        if sys.stderr.isatty() or i % 200 == 199:
            print(f"\r{name}: {i + 1} of {len(paths)} recordings embedded", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "features": np.concatenate(features),
        "clip": np.concatenate(index),
        "starts": np.concatenate(starts),
        "sounding": np.concatenate(sounding),
        "audible": np.concatenate(audible),
        "seconds": np.array(seconds, dtype=np.float64),
    }
