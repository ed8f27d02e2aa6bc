"""Two folders out of one: what an ear may train on and what it must never hear, as links to the same files."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

from trainer.datasets import Clip, is_held_out, list_clips, read_meta

PARTS = ("train", "held_out")


def split_set(directory: Path, out: Path, held_out: Callable[[Clip], bool] = is_held_out) -> tuple[int, int]:
    """Link the clips of one set into ``out/train/<set>`` and ``out/held_out/<set>``, ``meta.csv`` divided too.

    Returns (training clips, held-out clips). Existing links are kept. Raises AudioError when the set holds no clip.
    """
    clips = list_clips(directory)
    part_of = {f"{c.path.parent.name}/{c.path.name}": PARTS[int(held_out(c))] for c in clips}
    for clip in clips:
        name = f"{clip.path.parent.name}/{clip.path.name}"
        link = out / part_of[name] / clip.set_name / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.abspath(clip.path))
    columns, rows = read_meta(directory)
    if columns:
        for part in PARTS:
            folder = out / part / clips[0].set_name
            if folder.is_dir():
                with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as f:
                    writer = csv.DictWriter(f, columns)
                    writer.writeheader()
                    writer.writerows(row for row in rows if part_of.get(row["clip"]) == part)
    n_held_out = sum(part == "held_out" for part in part_of.values())
    return len(clips) - n_held_out, n_held_out
