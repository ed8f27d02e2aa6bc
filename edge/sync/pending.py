"""What waits to be sent: derived from what is known now, the clips on the disk, and what the server answered so far.

Order is the order of the journal's rows, never a clock's. What waits is bounded in bytes: the statement and the
embeddings always stay; of the clips the oldest are left out, and counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.clips import CLIP_NAME, FOLDER, MAX_CLIP_BYTES
from edge.errors import CorruptionError
from edge.memory_file import encode_memory
from edge.sync.clip_pack import PackedClip, encode_clips
from edge.sync.knowledge import Knowledge
from edge.sync.outbox import Outbox
from edge.sync.sharing import allows

BATCH_BYTES = 4 << 20
MAX_WAITING_BYTES = 512 << 20
_RECORD_HEAD_BYTES = 32 + 2 + 200 + 4
_CLIP_HEAD_BYTES = 32 + 32 + 4


@dataclass(frozen=True)
class WaitingItem:
    """One record's embeddings (item: its id) or one clip (item: content hash of the record), and its size in bytes."""

    item: str
    record_id: str
    n_bytes: int
    path: Path | None = None


@dataclass(frozen=True)
class Waiting:
    """What waits, oldest first. dropped: clips that found no room, oldest first."""

    embeddings: tuple[WaitingItem, ...]
    clips: tuple[WaitingItem, ...]
    dropped: tuple[WaitingItem, ...]

    @property
    def n_bytes(self) -> int:
        return sum(item.n_bytes for item in (*self.embeddings, *self.clips))


def waiting(
    knowledge: Knowledge, level: str, outbox: Outbox, state_dir: Path, *, max_bytes: int = MAX_WAITING_BYTES
) -> Waiting:
    """Return what the level lets leave and the server has not answered to."""
    about, dim = knowledge.records.about, knowledge.statistics.space.dim
    by_age = sorted(knowledge.ids, key=lambda i: (about(i).seq, i))
    embeddings: list[WaitingItem] = []
    if allows(level, "embeddings"):
        settled = outbox.settled("embeddings")
        embeddings = [
            WaitingItem(i, i, 2 * about(i).n_windows * dim + _RECORD_HEAD_BYTES) for i in by_age if i not in settled
        ]
    clips: list[WaitingItem] = []
    if allows(level, "clips"):
        settled, files = outbox.settled("clips"), clip_files(state_dir)
        seen: set[str] = set()
        for i in by_age:
            content, file = about(i).content_sha256, files.get(knowledge.clip_content(i))
            if file is not None and content not in settled and content not in seen:
                seen.add(content)
                clips.append(WaitingItem(content, i, file[1] + _CLIP_HEAD_BYTES, file[0]))
    room = max_bytes - sum(item.n_bytes for item in embeddings)
    n_kept = 0
    for clip in reversed(clips):
        room -= clip.n_bytes
        if room < 0:
            break
        n_kept += 1
    first = len(clips) - n_kept
    return Waiting(tuple(embeddings), tuple(clips[first:]), tuple(clips[:first]))


def clip_files(state_dir: Path) -> Mapping[str, tuple[Path, int]]:
    """Return path and size in bytes of every kept clip, by the content hash it is named after."""
    folder = state_dir / FOLDER
    found: dict[str, tuple[Path, int]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = CLIP_NAME.match(path.name)
        try:
            if match is not None:
                found[match[2]] = (path, path.stat().st_size)
        except OSError:  # the listener made room meanwhile
            continue
    return found


def batches(items: Sequence[WaitingItem], max_bytes: int = BATCH_BYTES) -> Iterator[list[WaitingItem]]:
    """Split ``items``, in order, into uploads of at most ``max_bytes``; what is larger alone goes alone."""
    batch: list[WaitingItem] = []
    n_bytes = 0
    for item in items:
        if batch and n_bytes + item.n_bytes > max_bytes:
            yield batch
            batch, n_bytes = [], 0
        batch.append(item)
        n_bytes += item.n_bytes
    if batch:
        yield batch


def embeddings_upload(knowledge: Knowledge, batch: Sequence[WaitingItem]) -> bytes:
    """Return the memory file of a batch; what cannot be read any more is left out."""
    records = []
    for item in batch:
        try:
            records.append(knowledge.records[item.record_id])
        except CorruptionError:
            continue
    return encode_memory(knowledge.statistics.space.embedding, records)


def clips_upload(batch: Sequence[WaitingItem], there: Collection[str] = ()) -> tuple[bytes, dict[str, str]]:
    """Return the pack of a batch, and by content hash the WAV hashes that are in it; a clip that is gone is left out.

    there: WAV hashes that the server has, whose bytes are not sent again.
    """
    packed = []
    for item in batch:
        assert item.path is not None
        try:
            with item.path.open("rb") as file:
                clip = PackedClip.of(item.item, file.read(MAX_CLIP_BYTES))
            packed.append(clip.known_already() if clip.wav_sha256 in there else clip)
        except OSError:
            continue
    return encode_clips(packed), {clip.content_sha256: clip.wav_sha256 for clip in packed}
