"""The head that a memory gives, in the bytes of a microcontroller's bank (c/include/soundkeep/sk_head.h).

On the device a window is judged by the same formula as here (docs/how_it_decides.md), in float32. What does not fit are
all the rivals: a prior has hundreds of classes, a bank room for 32 of them at most. Those stay that lie nearest to some
taught class, for they are what it would be taken for; each of the others counts as what plain background makes of it.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.decision import DecisionSettings
from edge.heads import OWN_SHARE, DetectionHead
from edge.learner import Learner
from edge.space import EmbeddingSpace
from firmware_bridge.errors import LinkError

Array = NDArray[np.float64]
MAGIC = b"SKH1"
NAME_BYTES = 24
MAX_CLASSES, MAX_RIVALS, MAX_DIM = 64, 32, 1024
MAX_BYTES = 128 * 1024
NO_RIVAL = 0xFFFFFFFF
ON_BACKGROUND = 1.0
"""exp z of a rival that is left out: z has mean 0 on background."""
_FIXED = struct.Struct("<4sIHBBI8sffIff20x")
_CLASS = struct.Struct(f"<fffffffI{NAME_BYTES}s")
_RIVAL = struct.Struct("<f")


@dataclass(frozen=True, eq=False)
class DeviceHead:
    """data: the bytes of a bank. labels: of its classes, in their order. ear: first eight bytes of the hash of its
    space. n_left_out: rivals that found no room."""

    version: int
    labels: tuple[str, ...]
    dim: int
    n_rivals: int
    n_left_out: int
    ear: bytes
    data: bytes

    @property
    def n_classes(self) -> int:
        return len(self.labels)

    @property
    def crc(self) -> int:
        return zlib.crc32(self.data)


def head_bytes(dim: int, n_classes: int, n_rivals: int) -> int:
    """Bytes of a head; a multiple of 4."""
    return _FIXED.size + n_classes * (4 * dim + _CLASS.size) + n_rivals * (4 * dim + _RIVAL.size)


def device_head(learner: Learner, decision: DecisionSettings, *, version: int, room: int = MAX_BYTES) -> DeviceHead:
    """Read a head out of what ``learner`` knows. version: above 0. room: bytes of a bank.

    Classes that are disabled are left out. Raises LinkError for an ear, or for classes, that no bank holds.
    """
    space = learner.space.embedding
    if learner.space.lift is not None or space.dim > MAX_DIM:
        raise LinkError(
            f"a head for a microcontroller takes embeddings of at most {MAX_DIM} numbers, without a lift; choose a "
            "smaller ear with --bundle"
        )
    disabled = {entry["label"] for entry in learner.classes() if not entry["enabled"]}
    head = learner.head()
    wanted = [i for i, label in enumerate(head.labels) if label not in disabled]
    rest = room - head_bytes(space.dim, len(wanted), 0)
    least = 0 if head.rivals.ignored is None else 1
    most = min(MAX_RIVALS, head.rivals.weights.shape[1], rest // (head_bytes(space.dim, 0, 1) - _FIXED.size))
    if len(wanted) > MAX_CLASSES or most < least:
        raise LinkError(
            f"{len(wanted)} classes need {head_bytes(space.dim, len(wanted), least)} bytes, and there is room "
            f"for {room} and {MAX_CLASSES} classes; forget or disable some, or build the firmware with larger banks"
        )
    covariance = learner.background().covariance
    return _encoded(head, wanted, _chosen(head, wanted, covariance, most), space, decision, version)


def _chosen(head: DetectionHead, wanted: Sequence[int], covariance: Array, most: int) -> list[int]:
    """Places of the rivals to keep, in their order: those most like some class that they may speak against."""
    rivals, n = head.rivals, head.rivals.weights.shape[1]
    alike = head.weights[:, wanted].T @ covariance @ rivals.weights
    alike[~head.admitted[wanted]] = -np.inf
    nearest = alike.max(axis=0, initial=-np.inf)
    if rivals.ignored is not None:
        nearest[-1] = np.inf
    order = np.argsort(-nearest, kind="stable")
    return sorted(int(j) for j in order[: min(most, n)])


def _encoded(
    head: DetectionHead,
    wanted: Sequence[int],
    kept: Sequence[int],
    space: EmbeddingSpace,
    decision: DecisionSettings,
    version: int,
) -> DeviceHead:
    scale, dim = space.grid.scale, space.dim
    ear = bytes.fromhex(space.sha256)[:8]
    ignored, place = head.rivals.ignored, NO_RIVAL
    gain = bias = 0.0
    if ignored is not None:
        place = len(kept) - 1
        gain, bias = head.mass * ignored.deviation, -0.5 * head.mass * ignored.energy
    pieces = [
        _FIXED.pack(
            *(MAGIC, version, dim, len(wanted), len(kept), head_bytes(dim, len(wanted), len(kept)), ear),
            *(decision.rival_share, decision.threshold - decision.low_threshold, place, gain, bias),
        )
    ]
    for i in wanted:
        label, admitted = head.labels[i], head.admitted[i]
        says = [j for j, k in enumerate(kept) if admitted[k]]
        count = int(admitted.sum())
        pieces += [
            (head.weights[:, i] * scale).astype("<f4").tobytes(),
            _CLASS.pack(
                *(head.offset[i], OWN_SHARE * head.own_z[i], decision.threshold_for(label), head.gain[i]),
                *(head.bias[i], ON_BACKGROUND * (count - len(says)), np.log(max(count, 1))),
                *(sum(1 << j for j in says), short_name(label)),
            ),
        ]
    for k in kept:
        pieces += [(head.rivals.weights[:, k] * scale).astype("<f4").tobytes(), _RIVAL.pack(head.rivals.offset[k])]
    labels = tuple(head.labels[i] for i in wanted)
    left_out = head.rivals.weights.shape[1] - len(kept)
    return DeviceHead(version, labels, dim, len(kept), left_out, ear, b"".join(pieces))


def short_name(label: str) -> bytes:
    """A label as the device keeps it: UTF-8, cut between characters, a zero byte at its end at least."""
    return label.encode("utf-8")[: NAME_BYTES - 1].decode("utf-8", "ignore").encode("utf-8")


def main(arguments: Sequence[str]) -> int:
    """``python -m firmware_bridge.heads BUNDLE MEMORY OUT``: the head of an exported memory, as a file."""
    import tempfile

    from edge.commands.workbench import Workbench
    from edge.errors import SoundkeepError
    from edge.journal import Journal
    from edge.memory_file import read_memory

    bundle_path, memory, out = map(Path, arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Workbench(state_dir=Path(folder), bundle_option=str(bundle_path), as_json=False)
            bundle = bench.bundle()
            _, records = read_memory(memory, expected=bundle.space)
            with Journal.open(bench.state_dir, space=bundle.space) as journal:
                learner = bench.learner(journal, bundle)
                learner.import_records(records, provenance={})
                made = device_head(learner, bench.decision_settings(bundle), version=1)
        out.write_bytes(made.data)
    except (SoundkeepError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
