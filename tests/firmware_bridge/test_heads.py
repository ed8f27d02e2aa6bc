"""A head in the bytes of a bank, scored by the device's C: what the host says of the same embedding, in float32."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.decision import DecisionSettings
from edge.errors import SoundkeepError
from edge.journal import Journal
from edge.learner import Learner
from edge.memory_file import write_memory
from edge.readout import Readout
from edge.records import BACKGROUND, Record
from edge.space import EmbeddingSpace, FeatureSpace
from edge.statistics import SufficientStatistics
from firmware_bridge import heads
from firmware_bridge import protocol as p
from firmware_bridge.errors import LinkError
from firmware_bridge.heads import DeviceHead, device_head, head_bytes
from tests.edge.examples import origins, teach
from tests.export.c.written import small_bundle
from tests.firmware_bridge.c_library import built

DIM = 24
SPACE = EmbeddingSpace("ab" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=DIM)
FEATURES = FeatureSpace(SPACE)
ROOM = 65_536


SHIM = """
#include "soundkeep/sk_head.h"
uint32_t size_of_head(void);
uint32_t size_of_head(void) { return (uint32_t)sizeof(sk_head); }
"""


def library() -> Any:
    """The C of the head, as it is on the device."""
    return built(SHIM)


class OnDevice:
    """A device's two banks, in memory of this machine."""

    def __init__(self, ear: bytes, dim: int, room: int = ROOM) -> None:
        self._head = ctypes.create_string_buffer(library().size_of_head())
        self._storage = np.zeros(dim + 2 * room // 4, dtype=np.float32)
        self._dim = dim
        address = self._storage.ctypes.data_as(ctypes.c_void_p)
        assert library().sk_head_init(self._head, address, self._storage.nbytes, ear, dim) == 0

    def load(self, data: bytes) -> int:
        return int(library().sk_head_load(self._head, data, len(data)))

    def scores(self, grid: NDArray[np.int16]) -> NDArray[np.float64]:
        """grid: (n, dim); any length of the vectors would do."""
        rows = []
        for row in grid.astype(np.float32):
            out = np.zeros(64, dtype=np.float32)
            n = library().sk_head_scores(
                self._head, row.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p)
            )
            rows.append(out[:n].astype(np.float64))
        return np.stack(rows)

    def decide(self, scores: Sequence[float]) -> int:
        given = np.zeros(64, dtype=np.float32)
        given[: len(scores)] = scores
        library().sk_head_decide.restype = ctypes.c_int16
        return int(library().sk_head_decide(self._head, given.ctypes.data_as(ctypes.c_void_p)))

    def name(self, index: int) -> str:
        library().sk_head_name.restype = ctypes.c_char_p
        return bytes(library().sk_head_name(self._head, index)).decode("utf-8")


def on_grid(x: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.rint(x / np.linalg.norm(x, axis=-1, keepdims=True) * 16384.0).astype(np.int16)


def around(centre: NDArray[np.float64], n: int, rng: np.random.Generator, spread: float = 0.5) -> NDArray[np.int16]:
    return on_grid(centre + spread * rng.standard_normal((n, len(centre))))


def centres(n: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((n, DIM))


def prior(n: int, seed: int = 1) -> SufficientStatistics:
    rng = np.random.default_rng(seed)
    windows = [around(c, 30, rng) for c in centres(n, seed)]
    labels = [f"kind {i}" for i in range(n) for _ in range(30)]
    return SufficientStatistics.from_samples(FEATURES, np.concatenate(windows), labels)


def taught(
    folder: Path, n: int, *, n_prior: int = 12, n_ignored: int = 0, names: Sequence[str] = ()
) -> tuple[Learner, NDArray[np.int16]]:
    """A learner of n classes, and windows (m, DIM) of all sorts. The caller leaves the journal open."""
    rng = np.random.default_rng(5)
    journal = Journal.open(folder, space=SPACE)
    kinds = centres(n, 7)
    labels = [*names, *(f"sound {i}" for i in range(n))][:n]
    for label, centre in zip(labels, kinds, strict=True):
        teach(journal, Record(SPACE.sha256, label, around(centre, 8, rng)))
    for centre in centres(n_ignored, 9):
        record = Record(SPACE.sha256, BACKGROUND, around(centre + 0.7 * kinds[0], 8, rng))
        journal.ignore([record], provenance=origins(1))
    learner = Learner(
        journal, FEATURES, prior=prior(n_prior) if n_prior else None, readout=Readout(ridge=64.0, prior_weight=1.0)
    )
    sources = [*kinds, *centres(n_prior, 1), *centres(n_ignored, 9), *centres(6, 11)]
    return learner, np.concatenate([around(c, 12, rng) for c in sources])


def loaded(made: DeviceHead) -> OnDevice:
    device = OnDevice(bytes.fromhex(SPACE.sha256)[:8], DIM)
    assert device.load(made.data) == p.STATUS_DONE
    return device


def judged(learner: Learner, windows: NDArray[np.int16]) -> NDArray[np.float64]:
    labels, scores = learner.judge(windows)
    return scores[:, [i for i, label in enumerate(labels) if label != BACKGROUND]]


@pytest.mark.parametrize(
    ("n", "n_prior", "n_ignored"), [(1, 12, 0), (3, 12, 0), (5, 31, 2), (2, 0, 2), (2, 0, 0), (40, 5, 1)]
)
def test_the_device_scores_as_the_host_does(tmp_path: Path, n: int, n_prior: int, n_ignored: int) -> None:
    learner, windows = taught(tmp_path, n, n_prior=n_prior, n_ignored=n_ignored)
    made = device_head(learner, DecisionSettings(), version=1)
    assert made.n_left_out == 0 and len(made.data) == head_bytes(DIM, n, learner.head().rivals.weights.shape[1])
    wanted, got = judged(learner, windows), loaded(made).scores(windows)
    assert np.abs(wanted - got).max() <= 1e-4 * max(1.0, np.abs(wanted).max())
    assert wanted.max() > 2.0 > wanted.min()


def test_what_the_ignored_sounds_explain_better_scores_nothing(tmp_path: Path) -> None:
    learner, windows = taught(tmp_path, 2, n_ignored=2)
    made = device_head(learner, DecisionSettings(), version=1)
    head = learner.head()
    assert not head.admitted[0, -1], "an ignored sound that is much like the class is compared, not a rival"
    plain = head.z(windows) - head.rivals.against(windows, head.admitted) - heads.OWN_SHARE * head.own_z
    held = (plain > 0.0) & (judged(learner, windows) == 0.0)
    assert held.any(), "the rule makes a difference here"
    assert (loaded(made).scores(windows)[held] == 0.0).all()


def test_thresholds_shares_and_what_is_unknown(tmp_path: Path) -> None:
    learner, windows = taught(tmp_path, 3)
    decision = DecisionSettings(threshold=3.0, low_threshold=2.0, per_class={"sound 1": 6.0})
    device = loaded(device_head(learner, decision, version=1))
    assert device.decide([3.1, 0.0, 0.0]) == 0
    assert device.decide([2.9, 5.9, 0.0]) == -1, "below the thresholds it is unknown"
    assert device.decide([3.1, 6.5, 0.0]) == 1, "further above its own threshold"
    assert device.decide([4.0, 0.0, 8.1]) == 2 and device.decide([3.1, 5.9, 0.0]) == 0
    assert device.decide([3.1, 0.0, 2.9]) == 0
    share = loaded(device_head(learner, replace(decision, rival_share=0.6), version=1))
    assert share.decide([3.1, 5.9, 0.0]) == -1, "it has less than its share of the largest score"
    plain = loaded(device_head(learner, DecisionSettings(threshold=2.0, low_threshold=1.0), version=1))
    answers = [plain.decide(row) for row in plain.scores(windows)]
    assert set(answers) == {-1, 0, 1, 2}


def test_rivals_that_are_left_out_are_those_that_matter_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, windows = taught(tmp_path, 3, n_prior=60)
    whole = judged(learner, windows)
    few = head_bytes(DIM, 3, 8)

    def error() -> float:
        made = device_head(learner, DecisionSettings(), version=1, room=few)
        assert (made.n_rivals, made.n_left_out) == (8, 52)
        near = np.abs(whole - 3.5) < 4.0
        return float(np.abs(loaded(made).scores(windows) - whole)[near].mean())

    nearest = error()
    monkeypatch.setattr(heads, "_chosen", lambda head, wanted, covariance, most: list(range(52, 52 + most)))
    assert nearest < 0.8 * error()


def test_names_are_cut_between_characters(tmp_path: Path) -> None:
    names = ("Türklingel der Nachbarn oben", "a" * 23 + "é", "音" * 20)
    learner, _ = taught(tmp_path, 3, names=names)
    made = device_head(learner, DecisionSettings(), version=1)
    device = loaded(made)
    for i, label in enumerate(made.labels):
        assert label.startswith(device.name(i)) and 21 <= len(device.name(i).encode()) <= 23
    assert device.name(3) == ""


def test_classes_that_are_off_are_left_out(tmp_path: Path) -> None:
    learner, windows = taught(tmp_path, 3)
    learner.enable("sound 1", False)
    made = device_head(learner, DecisionSettings(), version=1)
    assert made.labels == ("sound 0", "sound 2")
    assert np.allclose(loaded(made).scores(windows), judged(learner, windows), atol=1e-3)


def test_what_no_bank_holds_is_refused(tmp_path: Path) -> None:
    learner, _ = taught(tmp_path, 5)
    with pytest.raises(LinkError, match=rf"5 classes need {head_bytes(DIM, 5, 0)} bytes, and there is room for 700"):
        device_head(learner, DecisionSettings(), version=1, room=700)
    exactly = device_head(learner, DecisionSettings(), version=1, room=head_bytes(DIM, 5, 2) + 3)
    assert exactly.n_rivals == 2 and len(exactly.data) == head_bytes(DIM, 5, 2)


def test_a_head_of_another_ear_is_refused(tmp_path: Path) -> None:
    learner, _ = taught(tmp_path, 2)
    made = device_head(learner, DecisionSettings(), version=1)
    assert OnDevice(b"another!", DIM).load(made.data) == p.STATUS_OTHER_EAR
    assert OnDevice(bytes(8), DIM).load(made.data) == p.STATUS_DONE, "a device that knows no ear takes any"
    assert OnDevice(bytes(8), DIM + 1).load(made.data) == p.STATUS_OTHER_EAR
    assert OnDevice(bytes(8), DIM, 1024).load(made.data) == p.STATUS_TOO_LARGE


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
@settings(max_examples=30)
def test_any_length_of_an_embedding_gives_the_same_scores(seed: int, length: float) -> None:
    device = _any_device()
    x = np.random.default_rng(seed).standard_normal((1, DIM))
    grid = on_grid(x)
    assert np.allclose(device.scores(grid), device.scores_of((x * length).astype(np.float32)), atol=2e-3)


@functools.lru_cache(maxsize=1)
def _any_device() -> Any:
    learner, _ = taught(Path(tempfile.mkdtemp()), 3)
    device = loaded(device_head(learner, DecisionSettings(), version=1))
    device.scores_of = device.scores  # type: ignore[attr-defined]
    return device


def test_a_memory_file_becomes_a_head(tmp_path: Path) -> None:
    """As `soundkeep-export c --memory` asks for it, in a process of its own."""
    bundle = small_bundle()
    rng = np.random.default_rng(0)
    records = [
        Record(
            bundle.space.sha256,
            label,
            on_grid(rng.standard_normal((4, bundle.space.dim)) + 3 * rng.standard_normal(bundle.space.dim)),
        )
        for label in ("door", "kettle")
    ]
    write_memory(tmp_path / "memory", bundle.space, records)
    assert heads.main([str(bundle.path), str(tmp_path / "memory"), str(tmp_path / "head")]) == 0
    device = OnDevice(bytes.fromhex(bundle.space.sha256)[:8], bundle.space.dim)
    assert device.load((tmp_path / "head").read_bytes()) == p.STATUS_DONE
    assert (device.name(0), device.name(1)) == ("door", "kettle")
    (tmp_path / "memory").write_bytes(b"no memory")
    assert heads.main([str(bundle.path), str(tmp_path / "memory"), str(tmp_path / "head")]) == 1
    assert issubclass(LinkError, SoundkeepError)
