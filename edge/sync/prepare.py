"""``python -m edge.sync.prepare STATE NEW OLD OUT``: prove a new ear and move the memory to it, in a child process.

The child reads the journal beside the listener, at a low priority, on one thread and within limits. It writes the
images to OUT and one JSON line to standard output; a model that takes a process down takes this one.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle import Bundle, open_bundle
from edge.clips import ClipStore
from edge.config import decision_settings, load_settings
from edge.durable import write_file
from edge.embedder import Embedder
from edge.errors import BundleError, SoundkeepError, SyncError
from edge.first_load import MAX_ADDRESS_BYTES, limit_this_process, prove_in_child
from edge.hearing import WindowEmbedder
from edge.journal import Image, Journal
from edge.journal_reader import JournalReader
from edge.linear_map import parent_map
from edge.readout import readout_of
from edge.records import Record, embedding_bytes, embeddings_from_bytes
from edge.space import EmbeddingSpace, FeatureSpace, canonical_json
from edge.sync.moving import Accuracy, EarReadout, falls_too_far, move_records, own_accuracy, to_ask
from edge.sync.trial import canary_fault

MAGIC = b"SKMOVED\0"
VERSION = 1
MAX_FILE_BYTES = 1 << 30
N_TIMED = 200
MAX_RESIDENT_BYTES = 1 << 30
TIMEOUT_S = 1800.0
NICE = 10

_HEAD = struct.Struct("<8sII")


@dataclass(frozen=True)
class Prepared:
    """What the child found. refusal: why the ear cannot be taken, or None. for_good: whether that will stay so.

    old_accuracy, new_accuracy: shares of the device's own ``n_asked`` examples. p99_ms: of one window.
    """

    refusal: str | None = None
    for_good: bool = True
    n_records: int = 0
    n_clip: int = 0
    n_map: int = 0
    n_kept: int = 0
    n_asked: int = 0
    old_accuracy: float = 1.0
    new_accuracy: float = 1.0
    p99_ms: float = 0.0
    peak_bytes: int = 0


def prepare(state_dir: Path, new: Bundle, old: Bundle) -> tuple[Prepared, list[Image]]:
    """Prove the new ear, move every record and compare the two on the same records."""
    first = prove_in_child(new)
    if first.peak_bytes > MAX_RESIDENT_BYTES:
        return Prepared(
            f"it needs {first.peak_bytes >> 20} MiB of memory; at most {MAX_RESIDENT_BYTES >> 20} are given"
        ), []
    embedder = Embedder(new)
    wrong = canary_fault(new, embedder)
    if wrong is not None:
        return Prepared(wrong), []
    found = Prepared(p99_ms=window_ms(embedder), peak_bytes=first.peak_bytes)
    budget_ms = 500.0 * new.space.hop_length / new.space.sample_rate
    if found.p99_ms > budget_ms:
        return replace(found, refusal=f"a window takes {found.p99_ms:.0f} ms; half a hop is {budget_ms:.0f} ms"), []
    with Journal.open(state_dir, read_only=True) as journal:
        moving = move_records(journal, ClipStore(state_dir), embedder, parent_map(new), known_to=old.space.sha256)
        found = replace(
            found, n_records=moving.n_records, n_clip=moving.n_clip, n_map=moving.n_map, n_kept=moving.n_kept
        )
        stuck = moving.refusal()
        if stuck is not None:
            return replace(found, refusal=stuck, for_good=False), []
        before, after = compare(state_dir, journal, new, old, moving.images)
    found = replace(found, n_asked=after.n_asked, old_accuracy=before.share, new_accuracy=after.share)
    return replace(found, refusal=falls_too_far(before, after)), list(moving.images)


def compare(
    state_dir: Path, journal: JournalReader, new: Bundle, old: Bundle, images: Sequence[Image]
) -> tuple[Accuracy, Accuracy]:
    """Own accuracy with the old and with the new ear, on the records that both know."""
    made = {image.of: image.embeddings for image in images}
    kept = journal.images(new.space.sha256)
    in_old = journal.images(old.space.sha256)
    old_records: dict[str, Record] = {}
    new_records: dict[str, Record] = {}
    natives = journal.natives()
    for i in natives:
        native = natives.about(i)
        if native.space_sha256 == old.space.sha256:
            old_records[i] = journal.load(native)
        elif native.content in in_old:
            old_records[i] = journal.load(in_old[native.content].of_label(native.label))
        if native.space_sha256 == new.space.sha256:
            new_records[i] = journal.load(native)
        elif native.content in made:
            new_records[i] = Record(new.space.sha256, native.label, made[native.content])
        elif native.content in kept:
            new_records[i] = journal.load(kept[native.content].of_label(native.label))
    both = old_records.keys() & new_records.keys()
    asked = to_ask({i: natives.about(i).label for i in both})
    return (
        own_accuracy(_readout(state_dir, journal, old), {i: old_records[i] for i in both}, asked),
        own_accuracy(_readout(state_dir, journal, new), {i: new_records[i] for i in both}, asked),
    )


def _readout(state_dir: Path, journal: JournalReader, bundle: Bundle) -> EarReadout:
    settings, space = load_settings(state_dir), FeatureSpace(bundle.space)
    readout = readout_of(bundle.detection, settings.learn, journal, space)
    return EarReadout(space, readout, bundle.prior(), decision_settings(bundle.detection, settings.decision))


def window_ms(embedder: WindowEmbedder) -> float:
    """The 99th percentile of the processor time of a window, in milliseconds, over ``N_TIMED`` windows of noise."""
    rng = np.random.default_rng(0)
    took = []
    for _ in range(N_TIMED):
        window = rng.uniform(-0.3, 0.3, (1, embedder.space.window_length)).astype(np.float32)
        began = time.process_time()
        embedder.quantized(window)
        took.append(time.process_time() - began)
    return float(1e3 * np.percentile(took, 99))


# ---- the file of images ---------------------------------------------------------------------------------------------


def encode_images(images: Sequence[Image], space: EmbeddingSpace) -> bytes:
    """Return the file: magic, version, JSON that names every image, their embeddings, SHA-256."""
    entries = [{"space": i.of[0], "content": i.of[1], "how": i.how, "windows": len(i.embeddings)} for i in images]
    header = canonical_json({"space": space.sha256, "dim": space.dim, "images": entries})
    body = b"".join((_HEAD.pack(MAGIC, VERSION, len(header)), header, *(embedding_bytes(i.embeddings) for i in images)))
    return body + hashlib.sha256(body).digest()


def decode_images(data: bytes, space: EmbeddingSpace) -> list[Image]:
    """Read the file. Raises SyncError for any byte that was altered, or for images of another space."""
    body, digest = data[:-32], data[-32:]
    try:
        if len(data) > MAX_FILE_BYTES or hashlib.sha256(body).digest() != digest:
            raise ValueError("its bytes do not match their hash")
        magic, version, n_header = _HEAD.unpack_from(body)
        position = _HEAD.size + n_header
        header = json.loads(body[_HEAD.size : position])
        if magic != MAGIC or version != VERSION or (header["space"], header["dim"]) != (space.sha256, space.dim):
            raise ValueError("it is of another version or space")
        images = []
        for entry in header["images"]:
            end = position + 2 * space.dim * entry["windows"]
            embeddings = embeddings_from_bytes(body[position:end], entry["windows"], space.dim)
            images.append(Image((entry["space"], entry["content"]), embeddings, entry["how"]))
            position = end
        if position != len(body):
            raise ValueError("bytes follow the last image")
        return images
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise SyncError(f"the prepared images cannot be used ({error}); they will be made again") from error


# ---- the two sides --------------------------------------------------------------------------------------------------


def prepare_in_child(state_dir: Path, new: Bundle, old: Bundle, out: Path) -> Prepared:
    """Run this module as a child. A child that dies, or does not end, is a refusal: the ear took it down."""
    package = str(Path(__file__).resolve().parent.parent.parent)
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "edge.sync.prepare", str(state_dir), str(new.path), str(old.path), str(out)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False,
            env={**os.environ, **one, "PYTHONPATH": path},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Prepared(f"it was not ready within {TIMEOUT_S:.0f} s")
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return Prepared(**answer)
    except (ValueError, IndexError, TypeError):
        return Prepared(f"it took down the process that tried it (exit {done.returncode})")


def main(arguments: list[str]) -> int:
    """The child's side."""
    state_dir, new, old, out = (Path(argument) for argument in arguments)
    if hasattr(os, "nice"):
        os.nice(NICE)
    limit_this_process(MAX_ADDRESS_BYTES, int(TIMEOUT_S))  # a model may grow with the sound that it is given
    try:
        bundle = open_bundle(new)
        found, images = prepare(state_dir, bundle, open_bundle(old))
        if found.refusal is None:
            write_file(out, [encode_images(images, bundle.space)])
    except BundleError as error:
        found = Prepared(str(error))
    except (SoundkeepError, OSError) as error:
        found = Prepared(str(error), for_good=False)
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
