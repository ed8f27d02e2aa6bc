"""The sets that a benchmark knows by name: how each is read, dealt into sessions and divided, and what it should hold.

``speakers`` turns a set of class folders into one whose classes are its groups, such as words into speakers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edge.errors import ConfigurationError
from trainer.datasets import Clip, is_held_out, list_clips
from trainer.sets.tables import read_esc50, read_urbansound8k
from trainer.sets.trees import read_speech_commands, read_timit, read_vocalset

LabelBy = Literal["class", "group"]


@dataclass(frozen=True)
class PublicSet:
    """read: from the top folder to clips. n_classes, n_clips: as published, 0 when it may be any.

    classes_per_session: PACE's; 0 when the user says. held_out: the test side of the split by group; ``held_out_words``
    says it.
    """

    name: str
    read: Callable[[Path], list[Clip]]
    n_classes: int
    n_clips: int
    classes_per_session: int
    held_out: Callable[[Clip], bool] = is_held_out
    held_out_words: str = "a third of the groups, by hash of their names"
    note: str = ""


@dataclass(frozen=True)
class SetClips:
    """What was read. clips: labelled for the benchmark. listed: the same clips as training lists them, in parallel.

    notes: sentences that belong beside every figure.
    """

    clips: tuple[Clip, ...]
    listed: tuple[Clip, ...]
    notes: tuple[str, ...]


def _last_two_of_ten(clip: Clip) -> bool:
    return clip.group in {"9", "10"}


def _said_by_all(clip: Clip) -> bool:
    return clip.group in {"SA1", "SA2"}


SAID = "the sentences SA1 and SA2, which every speaker says: 2 of 10, and no text is on both sides"
VOCALSET_NOTE = "PACE does not say which 16 of the 17 techniques it used; these are the 16 with most clips"

SETS: dict[str, PublicSet] = {
    s.name: s
    for s in (
        PublicSet("esc50", read_esc50, 50, 2000, 5, held_out_words="fold 3 of 5"),
        PublicSet("urbansound8k", read_urbansound8k, 10, 8732, 2, _last_two_of_ten, "folds 9 and 10 of 10"),
        PublicSet(
            "speech-commands", read_speech_commands, 35, 105829, 5, held_out_words="a third of the speakers, by hash"
        ),
        PublicSet("timit-2", read_timit, 630, 6300, 2, _said_by_all, SAID),
        PublicSet("timit-3", read_timit, 630, 6300, 3, _said_by_all, SAID),
        PublicSet(
            "vocalset",
            read_vocalset,
            16,
            0,
            2,
            held_out_words="a third of the singers, by hash",
            note=VOCALSET_NOTE,
        ),
        PublicSet("folder", list_clips, 0, 0, 0, held_out_words="fold 3, or a third of the groups by hash"),
    )
}


def read_set(name: str, directory: Path, *, label: LabelBy = "class", min_clips: int = 1) -> SetClips:
    """Read one set. label: what the classes are. min_clips: classes with fewer are left out and counted.

    Raises ConfigurationError for a name that is not known, AudioError for a folder that is not that set.
    """
    if name not in SETS:
        raise ConfigurationError(f"there is no set {name!r}; wanted one of {', '.join(SETS)}")
    if label == "group" and name != "folder":
        raise ConfigurationError(f"--label group is for --set folder; {name} has its own classes; leave it out")
    public = SETS[name]
    listed = public.read(directory)
    notes = [public.note] if public.note else []
    if label == "group" and (nobody := [clip for clip in listed if _is_nobody(clip)]):
        listed = [clip for clip in listed if not _is_nobody(clip)]
        notes.append(f"{len(nobody)} clips of {', '.join(sorted({c.label for c in nobody}))} are nobody's and left out")
    clips = speakers(listed) if label == "group" else listed
    notes += _differences(public, clips)
    counts = Counter(clip.label for clip in clips)
    few = {kind for kind, n in counts.items() if n < min_clips}
    if few:
        notes.append(f"{len(few)} of {len(counts)} classes have fewer than {min_clips} clips and are left out")
    kept = [i for i, clip in enumerate(clips) if clip.label not in few]
    if not kept:
        raise ConfigurationError(
            f"no class of {directory} has {min_clips} clips, the largest has {max(counts.values())}; lower --min-clips"
        )
    return SetClips(tuple(clips[i] for i in kept), tuple(listed[i] for i in kept), tuple(notes))


def _is_nobody(clip: Clip) -> bool:
    """Whether a clip has no speaker: a folder such as ``_silence_``, with nothing said in it."""
    return clip.label.startswith("_") and not clip.word


def speakers(clips: Sequence[Clip]) -> list[Clip]:
    """The same recordings with their groups as classes: group = class folder and stem, so that each stands alone."""
    return [
        replace(clip, label=clip.group, group=f"{clip.path.parent.name}/{clip.path.stem}", word=clip.word)
        for clip in clips
    ]


def _differences(public: PublicSet, clips: Sequence[Clip]) -> list[str]:
    """What a folder holds otherwise than published."""
    found = []
    n_classes = len({clip.label for clip in clips})
    if public.n_clips and len(clips) != public.n_clips:
        found.append(f"{public.name} has {public.n_clips} clips as published; this folder holds {len(clips)}")
    if public.n_classes and n_classes != public.n_classes:
        found.append(f"{public.name} has {public.n_classes} classes in the benchmark; this folder holds {n_classes}")
    return found
