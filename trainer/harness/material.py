"""Recordings as windows after the front end: decoded once, kept on disk, and read from there page by page.

What a file of features is named after says what is in it: the recordings with their sizes and times, the backbone's
description, the hop. So another recording or another front end never meets old numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from edge.errors import MisuseError
from edge.windows import carries_sound, windows_of
from trainer.backbones.backbone import Backbone
from trainer.datasets import Clip, ClipAudio

SCHEMA = 1
BATCH_WINDOWS = 64


@dataclass(frozen=True, eq=False)
class Material:
    """clips: m recordings. features: (n, ...) float32 on the CPU, ``Backbone.features`` of each window.

    clip: (n,) int64, rising: the recording of each window; each has at least one. key: names the content; "" when it
    was not read from recordings. Features read from a cache are pages of a file that stays as it is.
    """

    clips: tuple[Clip, ...]
    features: Tensor
    clip: NDArray[np.int64]
    key: str = ""

    def __post_init__(self) -> None:
        n_windows = np.bincount(self.clip, minlength=len(self.clips))
        whole = len(n_windows) == len(self.clips) and bool(np.all(n_windows > 0) and np.all(np.diff(self.clip) >= 0))
        if len(self.clip) != len(self.features) or not whole:
            raise MisuseError(
                f"{len(self.features)} windows with {len(self.clip)} places do not cover {len(self.clips)} clips in "
                f"order; wanted at least one window of each clip, by rising clip"
            )

    def rows(self, clips: Sequence[int]) -> NDArray[np.int64]:
        """The windows of some clips, by index, in the order given: (r,) int64."""
        edges = np.searchsorted(self.clip, np.arange(len(self.clips) + 1))
        parts = [np.arange(edges[c], edges[c + 1], dtype=np.int64) for c in clips]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def labels_of_rows(self, rows: NDArray[np.int64]) -> list[str]:
        """The class of each window's clip."""
        return [self.clips[c].label for c in self.clip[rows]]


def gather(
    clips: Sequence[Clip],
    backbone: Backbone,
    *,
    hop_length: int,
    max_windows_per_clip: int | None = None,
    cache: Path | None = None,
    progress: bool = False,
) -> Material:
    """Cut clips into windows, keep those that carry sound (all when none does), and put them through the front end.

    hop_length: samples. max_windows_per_clip: so many at most, evenly spaced. cache: folder of feature files; without
    one everything stays in memory. Raises AudioError that names an unusable clip.
    """
    key = _key_of(clips, backbone, hop_length, max_windows_per_clip)
    batches = _feature_batches(clips, backbone, hop_length, max_windows_per_clip, progress=progress)
    if cache is None:
        whole, counts = [], []
        for features, n_windows in batches:
            whole.append(features)
            counts += n_windows
        return Material(tuple(clips), torch.cat(whole), _places(counts), key)
    described = cache / f"features-{key[:32]}.json"
    if (found := _read_description(described)) is None:
        found = _fill(described, batches)
    return Material(tuple(clips), _mapped(described.with_suffix(".f32"), found["shape"]), _places(found["counts"]), key)


def _feature_batches(
    clips: Sequence[Clip], backbone: Backbone, hop_length: int, most: int | None, *, progress: bool
) -> Iterator[tuple[Tensor, list[int]]]:
    """Features of some whole clips (r, ...) and the number of windows of each."""
    device = next(backbone.parameters()).device
    for clip in tqdm(clips, desc="front end", unit="clip", disable=not progress):
        samples = ClipAudio(backbone.sample_rate)[clip]
        _, windows = windows_of(samples, backbone.window_length, hop_length)
        mask = carries_sound(windows)
        chosen = windows[mask] if mask.any() else windows
        if most is not None and len(chosen) > most:
            chosen = chosen[np.linspace(0, len(chosen) - 1, most).round().astype(np.int64)]
        with torch.no_grad():
            parts = [
                backbone.features(torch.from_numpy(np.array(chosen[i : i + BATCH_WINDOWS])).to(device)).cpu().float()
                for i in range(0, len(chosen), BATCH_WINDOWS)
            ]
        yield torch.cat(parts), [len(chosen)]


def _key_of(clips: Sequence[Clip], backbone: Backbone, hop_length: int, most: int | None) -> str:
    files = []
    for clip in clips:
        status = clip.path.stat()
        files.append(["/".join(clip.path.parts[-4:]), status.st_size, status.st_mtime_ns])
    front_end = [backbone.kind, backbone.description(), backbone.sample_rate, backbone.window_length]
    described = {"schema": SCHEMA, "files": files, "front_end": front_end, "hop": hop_length, "most": most}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _places(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts), dtype=np.int64), np.array(counts, dtype=np.int64))


def _fill(described: Path, batches: Iterator[tuple[Tensor, list[int]]]) -> dict[str, Any]:
    """Write features as they come, then what they are; the description appears last and only when all is there."""
    described.parent.mkdir(parents=True, exist_ok=True)
    data, shape, counts = described.with_suffix(".f32"), [0], list[int]()
    unfinished = data.with_suffix(".f32.tmp")
    with unfinished.open("wb") as f:
        for features, n_windows in batches:
            features.numpy().astype("<f4", copy=False).tofile(f)
            counts += n_windows
            shape = [shape[0] + len(features), *features.shape[1:]]
    unfinished.replace(data)
    found = {"schema": SCHEMA, "shape": shape, "counts": counts}
    temporary = described.with_suffix(".tmp")
    temporary.write_text(json.dumps(found) + "\n", encoding="utf-8")
    temporary.replace(described)
    return found


def _read_description(described: Path) -> dict[str, Any] | None:
    """What ``_fill`` wrote, or None when it is absent or does not fit its data: then it is made again."""
    try:
        found = json.loads(described.read_text(encoding="utf-8"))
        size = described.with_suffix(".f32").stat().st_size
        fits = found["schema"] == SCHEMA and size == 4 * int(np.prod(found["shape"]))
        return dict(found) if fits and sum(found["counts"]) == found["shape"][0] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(data: Path, shape: Sequence[int]) -> Tensor:
    """The file as a tensor; pages are read when they are used, and writing to them changes no file."""
    return torch.from_numpy(np.memmap(data, dtype="<f4", mode="c", shape=tuple(shape)))
