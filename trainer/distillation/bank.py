"""The bank: augmented windows with every teacher's answer to exactly the same audio, made once, read many times.

A shard is made from (seed, shard number) alone, so an interrupted bank continues where it stopped and several processes
may fill it together.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from trainer.backbones.log_mel import FrontEndSettings, LogMel
from trainer.datasets import Clip, ClipAudio
from trainer.distillation.drawing import NO_CLASS, BankSettings, LabelSpace, WindowDrawer
from trainer.distillation.shards import shard_path, write_labels
from trainer.distillation.teachers import Teacher, load_teachers
from trainer.errors import TrainingError


def make_shard(
    path: Path, number: int, drawer: WindowDrawer, labels: LabelSpace, teachers: Mapping[str, Teacher], features: LogMel
) -> None:
    """Draw one shard, ask the teachers, and write it beside and rename. Raises AudioError for an unreadable clip."""
    rng = np.random.default_rng([drawer.settings.seed, number])
    size = drawer.settings.shard_size
    windows = np.zeros((size, drawer.frontend.window_length), dtype=np.float32)
    sound = np.full((size, 2), NO_CLASS, dtype=np.int16)
    word = np.full((size, 2), NO_CLASS, dtype=np.int16)
    share = np.ones(size, dtype=np.float32)
    ask_speech = np.zeros(size, dtype=bool)
    for i in range(size):
        windows[i], first, second, share[i] = drawer.draw(rng)
        for j, clip in enumerate((first, second)):
            sound[i, j], word[i, j] = labels.indices(clip)
        spoken = any(c is not None and (c.word or c.label == "speech") for c in (first, second))
        ask_speech[i] = spoken or rng.random() < drawer.settings.p_speech_teacher
    arrays: dict[str, Any] = {"sound_label": sound, "word_label": word, "share": share}
    with torch.no_grad():
        log_mel = [features(torch.from_numpy(windows[i : i + 256])).numpy() for i in range(0, size, 256)]
    arrays["log_mel"] = np.concatenate(log_mel).astype(np.float16)
    for name, teacher in teachers.items():
        rows = np.flatnonzero(ask_speech) if name == "speech" else np.arange(size)
        parts = [teacher.targets(windows[rows[i : i + 64]]) for i in range(0, len(rows), 64)]
        parts = parts or [{key: answer[:0] for key, answer in teacher.targets(windows[:1]).items()}]
        arrays[f"{name}_rows"] = rows.astype(np.int32)
        for key in parts[0]:
            arrays[key] = np.concatenate([p[key] for p in parts]).astype(np.float16)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as f:
            np.savez(f, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class ShardMaker:
    """All that a process needs to make shards: decoded clips, teachers, the front end."""

    def __init__(
        self,
        directory: Path,
        clips: Sequence[Clip],
        labels: LabelSpace,
        teacher_files: Sequence[Path],
        frontend: FrontEndSettings,
        settings: BankSettings,
        audio: ClipAudio | None,
    ) -> None:
        torch.set_num_threads(1)
        self.directory = directory
        self.labels = labels
        self.drawer = WindowDrawer(clips, frontend, settings, audio)
        self.teachers = load_teachers(teacher_files)
        self.features = LogMel(frontend)

    def make(self, number: int) -> None:
        """Make the shard unless it is there already, as another process may have made it meanwhile."""
        path = shard_path(self.directory, number)
        if not path.exists():
            make_shard(path, number, self.drawer, self.labels, self.teachers, self.features)


_maker: ShardMaker | None = None


def _begin_worker(*arguments: Any) -> None:
    global _maker  # noqa: PLW0603 - the state of a worker process, made once in it
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _maker = ShardMaker(*arguments)


def _make_in_worker(number: int) -> None:
    assert _maker is not None
    _maker.make(number)


def fill_bank(
    directory: Path,
    n_shards: int,
    clips: Sequence[Clip],
    teacher_files: Sequence[Path],
    *,
    labels: LabelSpace,
    frontend: FrontEndSettings,
    settings: BankSettings,
    workers: int = 1,
    first_shard: int = 0,
    audio: ClipAudio | None = None,
    progress: bool = True,
) -> None:
    """Make the shards ``first_shard .. n_shards - 1`` that are missing, in ``workers`` processes.

    audio: clips decoded before, which the workers then share. An interrupt loses the shards in work only. Raises
    AudioError for an unreadable clip, BundleError for an unusable teacher, TrainingError when a worker dies.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_labels(directory, labels)
    missing = [n for n in range(first_shard, n_shards) if not shard_path(directory, n).exists()]
    done = max(0, n_shards - first_shard) - len(missing)
    arguments = (directory, clips, labels, teacher_files, frontend, settings, audio)
    with tqdm(total=done + len(missing), initial=done, desc="bank", unit="shard", disable=not progress) as bar:
        if not missing:
            return
        maker = ShardMaker(
            *arguments
        )  # here too when workers make the shards: whatever is wrong is said before they start
        if workers <= 1:
            for number in missing:
                maker.make(number)
                bar.update()
            return
        pool = ProcessPoolExecutor(min(workers, len(missing)), initializer=_begin_worker, initargs=arguments)
        try:
            for job in as_completed([pool.submit(_make_in_worker, number) for number in missing]):
                job.result()
                bar.update()
        except BrokenProcessPool as error:
            raise TrainingError(
                f"a process that fills {directory} died, out of memory perhaps; run again with fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
