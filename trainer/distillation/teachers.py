"""The two teachers of the default ear, as ONNX files: one knows everyday sound, the other knows words.

Each alone fails on the other's ground; a student that answers both questions from one embedding does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.errors import BundleError

Array = NDArray[np.float32]


def _session(path: Path) -> ort.InferenceSession:
    """Load from bytes, so that the graph can name no other file. ONNX Runtime's errors derive from Exception alone."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(
            f"{path} is no ONNX model that can be loaded ({_reason(error)}); wanted the ONNX file of a teacher"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class Teacher(Protocol):
    """Windows (n, length) float32 at 16 kHz to named targets, each (n, m) float32."""

    def targets(self, windows: Array) -> dict[str, Array]: ...


@dataclass
class SoundTeacher:
    """YAMNet: 1024-d embedding and the logits of 521 AudioSet classes, of the window's middle 0.975 s."""

    session: ort.InferenceSession
    length: int = 15600

    def targets(self, windows: Array) -> dict[str, Array]:
        start = (windows.shape[1] - self.length) // 2
        cut = np.ascontiguousarray(windows[:, start : start + self.length])
        embedding, scores = self.session.run(["embedding", "scores"], {"waveform": cut})
        return {"sound": np.asarray(embedding, np.float32), "sound_scores": np.asarray(scores, np.float32)}


@dataclass
class SpeechTeacher:
    """Google's speech embedding: three overlapping 96-d vectors across the window, concatenated to 288."""

    melspectrogram: ort.InferenceSession
    embedding: ort.InferenceSession
    frames: int = 76
    starts: Sequence[int] = (0, 10, 20)

    def targets(self, windows: Array) -> dict[str, Array]:
        (mel,) = self.melspectrogram.run(None, {"input": windows * np.float32(32767.0)})
        mel = np.asarray(mel, np.float32).reshape(len(windows), -1, 32) / 10.0 + 2.0
        stacked = np.stack([mel[:, s : s + self.frames] for s in self.starts], axis=1).reshape(-1, self.frames, 32, 1)
        (vectors,) = self.embedding.run(None, {"input_1": stacked})
        return {"speech": np.asarray(vectors, np.float32).reshape(len(windows), -1)}


def load_teachers(files: Sequence[Path], *, window_length: int = 16000) -> dict[str, Teacher]:
    """Recognise teachers by their graph's inputs and outputs, and prove each on one silent window.

    Returns {"sound": ..., "speech": ...} of those found. Raises BundleError when a file is no known teacher, two are
    the same one, a speech embedding comes without its melspectrogram, or a teacher does not answer.
    """
    found: dict[str, tuple[Path, ort.InferenceSession]] = {}
    for path in files:
        session = _session(path)
        inputs = {i.name for i in session.get_inputs()}
        outputs = {o.name for o in session.get_outputs()}
        if "waveform" in inputs and {"embedding", "scores"} <= outputs:
            part = "sound"
        elif inputs == {"input"}:
            part = "melspectrogram"
        elif inputs == {"input_1"}:
            part = "speech"
        else:
            raise BundleError(
                f"{path} takes {sorted(inputs)} and gives {sorted(outputs)}; wanted a waveform model with outputs "
                "embedding and scores, or the speech melspectrogram and embedding pair"
            )
        if part in found:
            raise BundleError(f"{found[part][0]} and {path} are both a {part} model; give one of each kind")
        found[part] = path, session
    if ("melspectrogram" in found) != ("speech" in found):
        raise BundleError("the speech teacher is a pair: give both its melspectrogram and its embedding file")
    teachers: dict[str, Teacher] = {}
    if "sound" in found:
        teachers["sound"] = SoundTeacher(found["sound"][1])
    if "speech" in found:
        teachers["speech"] = SpeechTeacher(found["melspectrogram"][1], found["speech"][1])
    silence = np.zeros((1, window_length), dtype=np.float32)
    for name, teacher in teachers.items():
        try:
            answers = teacher.targets(silence)
        except Exception as error:
            raise BundleError(
                f"the {name} teacher {found[name][0]} does not answer to a window of {window_length} samples "
                f"({_reason(error)}); wanted a model as docs/training.md names it"
            ) from error
        for key, answer in answers.items():
            if answer.ndim != 2 or not np.isfinite(answer).all():
                raise BundleError(
                    f"the {name} teacher {found[name][0]} answers {key} of shape {answer.shape} to silence, or values "
                    f"that are not finite; wanted one finite row a window"
                )
    return teachers
