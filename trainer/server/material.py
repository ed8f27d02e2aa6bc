"""What a job is made of: the clips that the owners share, by the operator's labels, in folders that ``adapt`` reads.

About a quarter of the recordings is never learnt from, in this job and in all later ones: the SHA-256 of the WAV file
alone decides, so the gates ask the new ear what it cannot have heard.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import select
from sqlalchemy.orm import Session

from edge.durable import write_file
from edge.errors import CorruptionError, StateError
from edge.records import BACKGROUND
from edge.space import canonical_json
from trainer.server.database import reading
from trainer.server.labels import resolver
from trainer.server.opening import Server
from trainer.server.policy import Policy
from trainer.server.tables import Clip, Device, Embedded, Job, State

HELD_OUT_ONE_IN = 4
JOBS_FOLDER = "jobs"
TRAIN, HELD_OUT, MATERIAL = "train", "heldout", "material.json"
FINISHED = ("done", "unsigned", "failed", "cancelled")
_MAX_FOLDER_NAME = 120


@dataclass(frozen=True)
class FleetClip:
    """One recording of one class. A recording that several devices share under one label is there once."""

    label: str
    wav_sha256: str
    device_id: str

    @property
    def held_out(self) -> bool:
        return is_held_out(self.wav_sha256)


def is_held_out(wav_sha256: str) -> bool:
    """Say whether a recording is kept for the gates: the same answer in every job, whatever else there is."""
    digest = hashlib.sha256(f"soundkeep held out {wav_sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % HELD_OUT_ONE_IN == 0


def usable_clips(session: Session) -> list[FleetClip]:
    """Return the clips that a job may use, by label and hash: of active devices whose statement is not held back.

    Private labels and ignored sounds are left out.
    """
    resolve = resolver(session)
    query = (
        select(Embedded.device_id, Embedded.label, Clip.wav_sha256)
        .join(Clip, (Clip.device_id == Embedded.device_id) & (Clip.content_sha256 == Embedded.content_sha256))
        .join(Device, Device.id == Embedded.device_id)
        .join(State, State.device_id == Embedded.device_id)
        .where(Device.status == "active", State.held_back.is_(None))
        .order_by(Embedded.device_id)
    )
    found: dict[tuple[str, str], FleetClip] = {}
    for device_id, named, wav_sha256 in session.execute(query):
        label = None if named == BACKGROUND else resolve(device_id, named)
        if label is not None:
            found.setdefault((label, wav_sha256), FleetClip(label, wav_sha256, device_id))
    return [found[key] for key in sorted(found)]


def in_classes_of(clips: Iterable[FleetClip], policy: Policy) -> list[FleetClip]:
    """Leave out the classes with fewer clips than the policy wants, and those of which none may be learnt from."""
    clips = list(clips)
    n = Counter(clip.label for clip in clips)
    learnt = {clip.label for clip in clips if not clip.held_out}
    return [c for c in clips if n[c.label] >= policy.min_clips_per_class and c.label in learnt]


def input_sha256(parent_sha256: str, clips: Iterable[FleetClip], policy: Policy) -> str:
    """Name what a job starts from: parent, recordings with label and side, settings. It names the job's folder."""
    rows = [[clip.label, clip.wav_sha256, clip.held_out] for clip in clips]
    value = {"version": 1, "parent": parent_sha256, "clips": rows, "settings": policy.deciding}
    return hashlib.sha256(canonical_json(value)).hexdigest()


def lay_out(server: Server, folder: Path, clips: Iterable[FleetClip], *, alive: Callable[[], object]) -> dict[str, Any]:
    """Write the clips as ``train`` and ``heldout``, class folders with ``meta.csv``; what is there already is kept.

    alive: called after each clip. A clip that its owner withdrew meanwhile is left out. Returns what ``material.json``
    says, written last: {"wavs", "n_train", "n_held_out", "classes", "gone"}.
    """
    rows: dict[str, list[tuple[str, str]]] = {TRAIN: [], HELD_OUT: []}
    wavs, gone, classes = [], 0, Counter[str]()
    for clip in clips:
        side = HELD_OUT if clip.held_out else TRAIN
        name = f"{folder_name(clip.label)}/{clip.wav_sha256}.wav"
        path = folder / side / name
        if not path.exists():
            try:
                data = server.blobs.get(clip.wav_sha256)
            except (StateError, CorruptionError):
                gone += 1
                continue
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_file(path, [data])
        rows[side].append((name, f"{clip.device_id[:8]}-{clip.wav_sha256}"))
        wavs.append(clip.wav_sha256)
        classes[clip.label] += 1
        alive()
    for side, named in rows.items():
        (folder / side).mkdir(parents=True, exist_ok=True, mode=0o700)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("clip", "group"), *named])
        write_file(folder / side / "meta.csv", [text.getvalue().encode("utf-8")])
    said = {
        "wavs": sorted(set(wavs)),
        "n_train": len(rows[TRAIN]),
        "n_held_out": len(rows[HELD_OUT]),
        "classes": dict(sorted(classes.items())),
        "gone": gone,
    }
    write_file(folder / MATERIAL, [json.dumps(said, indent=1).encode("utf-8")])
    return said


def remove_recordings(folder: Path) -> None:
    """Remove the clips of a job that ended: what a device forgets must not live on in the folder of a job."""
    for side in (TRAIN, HELD_OUT):
        shutil.rmtree(folder / side, ignore_errors=True)


def folder_name(label: str) -> str:
    """Return a name of a folder that stands for a label and for no other, whatever characters the label has."""
    name = quote(label, safe=" ").replace(".", "%2E").replace("~", "%7E")
    if len(name) > _MAX_FOLDER_NAME or name != name.strip():
        name = f"{name.strip()[: _MAX_FOLDER_NAME - 20]}~{hashlib.sha256(label.encode()).hexdigest()[:16]}"
    return name


def situation(server: Server) -> tuple[int, Mapping[str, int], float | None, bool]:
    """What the policy looks at: new clips, clips of each class, when the last job was asked for, is one open."""
    with reading(server.engine) as session:
        busy = session.scalar(select(Job.id).where(Job.status.in_(("queued", "running"))).limit(1)) is not None
        last = session.scalar(select(Job).where(Job.status.in_(FINISHED)).order_by(Job.id.desc()).limit(1))
        clips = usable_clips(session)
        n_new = len({clip.wav_sha256 for clip in clips})
        if last is not None:
            had = _wavs_of(server.data_dir, last.input_sha256)
            if had is None:  # of another host, or nothing was laid out: tell by time
                late = select(Clip.wav_sha256).where(Clip.received_at > last.created_at)
                new = set(session.scalars(late)) & {clip.wav_sha256 for clip in clips}
            else:
                new = {clip.wav_sha256 for clip in clips} - had
            n_new = len(new)
    return n_new, Counter(clip.label for clip in clips), None if last is None else last.created_at, busy


def job_folder(data_dir: Path, sha256: str) -> Path:
    return data_dir / JOBS_FOLDER / sha256


def _wavs_of(data_dir: Path, sha256: str | None) -> set[str] | None:
    if sha256 is None:
        return None
    try:
        return set(json.loads((job_folder(data_dir, sha256) / MATERIAL).read_bytes())["wavs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
