"""The clips of devices that hear with another bundle, heard again with this one: in shards, with the same bits.

A device that took the bundle would learn these records (``edge.sync.moving`` hears its kept clips by the same rule), so
the sum shows what it is going to say. It is shown beside the fleet's sum and never added to it.
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from edge.bundle import open_bundle
from edge.clips import read_clip
from edge.embedder import Embedder
from edge.errors import CorruptionError, MisuseError, SilenceError, StateError
from edge.hearing import background_example, hear, sounding_example
from edge.records import BACKGROUND
from edge.space import EmbeddingSpace, FeatureSpace
from edge.statistics import StatisticsAccumulator, SufficientStatistics
from edge.statistics_file import read_packed
from trainer.server.blobs import BlobStore
from trainer.server.database import reading
from trainer.server.ears import bundle_of_space
from trainer.server.executor import Executor
from trainer.server.fleet_sum import FleetSum
from trainer.server.labels import resolver
from trainer.server.opening import Server
from trainer.server.statements import cut
from trainer.server.tables import Clip, Device, Embedded, State

SHARD_CLIPS = 500
"""A worker that dies takes at most the work on so many clips with it."""


@dataclass(frozen=True)
class SharedClip:
    """The clip of one record of one device. label: the fleet's."""

    device_id: str
    label: str
    wav_sha256: str


@dataclass(frozen=True)
class ClipShard:
    """store: URL of the blob store. bundle: folder of the bundle that hears. Workers reach both."""

    store: str
    bundle: str
    space: EmbeddingSpace
    clips: tuple[SharedClip, ...]


@dataclass(frozen=True, eq=False)
class Reheard:
    """What the clips teach in the new space. n_left_out: withdrawn meanwhile, silent, or of another sample rate."""

    statistics: SufficientStatistics
    n_devices: int
    n_records: int
    n_left_out: int

    def to_json(self) -> dict[str, Any]:
        return {
            "statistics_sha256": self.statistics.sha256,
            "n_records": self.n_records,
            "n_windows": self.statistics.n_samples,
            "n_classes": sum(label != BACKGROUND for label in self.statistics.labels),
            "n_devices": self.n_devices,
            "n_left_out": self.n_left_out,
        }


def hear_again(server: Server, space: EmbeddingSpace, executor: Executor, n_shards: int | None = None) -> Reheard:
    """Hear the shared clips of all devices that count in other spaces with the bundle of ``space``, and sum them up.

    Raises MisuseError where the server has no bundle of that space, CorruptionError, BundleError, ExecutorError.
    """
    bundle = bundle_of_space(server, space.sha256)
    if bundle is None:
        raise MisuseError(
            f"no bundle that hears in space {space.sha256[:12]} is on this server; leave --from-clips out"
        )
    clips = shared_clips(server, space)
    most = max(executor.n_workers, -(-len(clips) // SHARD_CLIPS)) if n_shards is None else n_shards
    shards = [ClipShard(server.blobs.url, str(bundle.path.absolute()), space, tuple(part)) for part in cut(clips, most)]
    answers = executor.map_shards(sum_clips, shards)
    total = FleetSum.of(FeatureSpace(space), (read_packed(FeatureSpace(space), data) for data, _ in answers))
    n_heard = sum(n for _, n in answers)
    return Reheard(total.statistics(), len({clip.device_id for clip in clips}), n_heard, len(clips) - n_heard)


def shared_clips(server: Server, space: EmbeddingSpace) -> list[SharedClip]:
    """Return the clips of devices that count, in any space but ``space``, without private labels."""
    query = (
        select(Embedded.device_id, Embedded.label, Clip.wav_sha256)
        .join(Clip, (Clip.device_id == Embedded.device_id) & (Clip.content_sha256 == Embedded.content_sha256))
        .join(Device, Device.id == Embedded.device_id)
        .join(State, State.device_id == Embedded.device_id)
        .where(Device.status == "active", State.held_back.is_(None), State.space_sha256 != space.sha256)
        .order_by(Embedded.device_id, Embedded.record_id)
    )
    with reading(server.engine) as session:
        resolve = resolver(session)
        rows = session.execute(query).all()
        named = [(d, label if label == BACKGROUND else resolve(d, label), wav) for d, label, wav in rows]
    return [SharedClip(device_id, label, wav) for device_id, label, wav in named if label is not None]


def sum_clips(shard: ClipShard) -> tuple[bytes, int]:
    """Hear and sum up a shard; returns the stored form of statistics and how many clips were heard. In a worker."""
    bundle = open_bundle(shard.bundle)
    if bundle.space != shard.space:
        raise StateError(f"the bundle in {shard.bundle} is another one on this host; give all hosts the same folder")
    embedder, blobs = Embedder(bundle), BlobStore(shard.store)
    accumulator, n_heard = StatisticsAccumulator(SufficientStatistics.zero(FeatureSpace(shard.space))), 0
    for clip in shard.clips:
        try:
            wav = blobs.get(clip.wav_sha256)
        except CorruptionError:
            raise
        except StateError:
            continue
        try:
            samples, rate = read_clip(io.BytesIO(wav))
        except (wave.Error, EOFError) as error:
            raise CorruptionError(
                f"clip {clip.wav_sha256[:12]} is no recording ({error}); remove its device"
            ) from error
        if rate != shard.space.sample_rate:
            continue
        make = background_example if clip.label == BACKGROUND else sounding_example
        try:
            accumulator.add(make(hear(samples, embedder), {}).embeddings, clip.label)
        except SilenceError:
            continue
        n_heard += 1
    return accumulator.snapshot().to_bytes(), n_heard
