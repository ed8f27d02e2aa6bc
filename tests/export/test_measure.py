"""What a precision costs is measured as far as was asked, on sets that can tell, and the work can be watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge.bundle import Bundle
from edge.embedder import Embedder
from export.loss import clips_with_groups, readout_accuracies
from export.measure import measure
from tests.export.test_prior import tone, write_wav
from trainer.datasets import is_held_out, list_clips


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set with groups, one of a single class and one that is no set."""
    root = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    for i in range(9):
        for label, hz in (("beep", 900.0), ("hum", 130.0)):
            write_wav(root / "toy" / label / f"{i}.wav", tone(hz * rng.uniform(0.9, 1.1), 1.3))
        write_wav(root / "lone" / "beep" / f"{i}.wav", tone(900.0, 1.3))
    write_wav(root / "flat" / "a.wav", tone(900.0, 1.3))
    return {name: root / name for name in ("toy", "lone", "flat")}


@pytest.fixture(scope="module")
def embedder(small_bundle: Bundle) -> Embedder:
    return Embedder(small_bundle)


@pytest.fixture(scope="module")
def windows(small_bundle: Bundle) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-0.3, 0.3, (5, small_bundle.space.window_length)).astype(np.float32)


def test_none_gives_likeness_alone(embedder: Embedder, windows: np.ndarray, sets: dict[str, Path]) -> None:
    measured = measure({"float32": embedder, "int8": embedder}, windows, sets, "none")
    assert measured.to_float32 is not None and measured.to_float32.min_cosine == pytest.approx(1.0)
    assert not measured.window_ms and not measured.readout and not measured.left_out and not measured.processor


def test_speed_adds_times_of_both(embedder: Embedder, windows: np.ndarray, sets: dict[str, Path]) -> None:
    measured = measure({"float32": embedder, "int8": embedder}, windows, sets, "speed")
    assert set(measured.window_ms) == {"float32", "int8"} and measured.processor
    assert not measured.readout and not measured.left_out


def test_accuracy_reads_sets_that_can_tell_and_says_of_the_others_why_not(
    embedder: Embedder, windows: np.ndarray, sets: dict[str, Path]
) -> None:
    stages: list[tuple[str, int, int]] = []

    @contextmanager
    def watch(stage: str, n_steps: int) -> Iterator[Callable[[], object]]:
        steps: list[int] = []
        yield lambda: steps.append(1)
        stages.append((stage, n_steps, len(steps)))

    measured = measure({"float32": embedder, "int8": embedder}, windows, sets, "accuracy", watch=watch)
    (alone,) = readout_accuracies(embedder, {"toy": sets["toy"]})
    assert measured.readout == {"toy": {"float32": alone.accuracy, "int8": alone.accuracy}} and alone.accuracy == 1.0
    assert measured.n_tested == {"toy": sum(map(is_held_out, list_clips(sets["toy"])))}
    assert set(measured.left_out) == {"lone", "flat"}
    assert "one class" in measured.left_out["lone"] and "no class folders" in measured.left_out["flat"]
    assert stages == [("toy, read-out in float32", 18, 18), ("toy, read-out in int8", 18, 18)]


def test_float32_alone_is_not_compared_with_itself(embedder: Embedder, windows: np.ndarray) -> None:
    assert measure({"float32": embedder}, windows, {}, "none").to_float32 is None


def test_groups_on_one_side_only_tell_nothing(tmp_path: Path) -> None:
    clips = [tmp_path / "one" / label / f"{i}.wav" for label in ("beep", "hum") for i in range(40)]
    for path in clips:
        write_wav(path, tone(900.0, 0.1))
    found = clips_with_groups(tmp_path / "one")
    assert not isinstance(found, str)
    for clip in found:
        if is_held_out(clip):
            clip.path.unlink()
    assert "0 of" in str(clips_with_groups(tmp_path / "one"))
