"""Sets whose authors list the clips in a table: ESC-50 and UrbanSound8K.

The table is what counts: a file that it does not name is not read, and a file that it names must be there.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from edge.errors import AudioError
from trainer.datasets import Clip


def read_esc50(directory: Path) -> list[Clip]:
    """``meta/esc50.csv`` and ``audio/*.wav``: label = category, group = fold. Raises AudioError.

    Source: Piczak 2015. The author's folds keep the clips of one Freesound recording together.
    """
    rows = _rows(directory, "meta/esc50.csv", ("filename", "fold", "category"), "ESC-50")
    clips = [Clip(directory / "audio" / r["filename"], "esc50", r["category"], r["fold"]) for r in rows]
    return _present(clips, directory, "audio/<filename>", "ESC-50")


def read_urbansound8k(directory: Path) -> list[Clip]:
    """``metadata/UrbanSound8K.csv`` and ``audio/fold1`` to ``fold10``: label = class, group = fold. Raises AudioError.

    Source: Salamon, Jacoby, Bello 2014. The authors' folds keep the slices of one Freesound recording together.
    """
    columns = ("slice_file_name", "fold", "class")
    rows = _rows(directory, "metadata/UrbanSound8K.csv", columns, "UrbanSound8K")
    audio = directory / "audio"
    clips = [
        Clip(audio / f"fold{r['fold']}" / r["slice_file_name"], "urbansound8k", r["class"], r["fold"]) for r in rows
    ]
    return _present(clips, directory, "audio/fold<n>/<slice_file_name>", "UrbanSound8K")


def _rows(directory: Path, table: str, columns: Sequence[str], name: str) -> list[dict[str, str]]:
    path = directory / table
    try:
        with path.open(newline="", encoding="utf-8") as f:
            reader = csv.DictReader(f, restval="")
            rows, found = list(reader), list(reader.fieldnames or [])
    except FileNotFoundError:
        raise AudioError(
            f"{directory} has no {table}; wanted {name} as its authors publish it, with {table} inside; "
            f"give its top folder, or use --set folder for class folders"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AudioError(f"{path} cannot be read ({error}); unpack {name} again") from error
    if any(column not in found for column in columns) or not rows:
        raise AudioError(
            f"{path} has {len(rows)} rows with columns {', '.join(found) or 'none'}; wanted {', '.join(columns)} among "
            f"them; unpack {name} again"
        )
    return rows


def _present(clips: list[Clip], directory: Path, where: str, name: str) -> list[Clip]:
    absent = [clip for clip in clips if not clip.path.is_file()]
    if absent:
        raise AudioError(
            f"{directory} lacks {len(absent)} of the {len(clips)} clips of its table, the first is {absent[0].path}; "
            f"wanted {where}; unpack {name} again"
        )
    return sorted(clips, key=lambda clip: clip.path)
