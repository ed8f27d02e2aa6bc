"""A student out of its bundle: it computes what the bundle computes, can be adapted, and goes back into one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from edge.bundle import Bundle, default_bundle_path, open_bundle, shipped_bundles_path, write_bundle
from edge.embedder import Embedder
from edge.errors import BundleError
from export.cli import main
from export.graph import to_onnx
from export.half import to_float16
from export.material import synthesised_windows
from tests.bundles import write_tiny_bundle
from tests.export.small_student import small_student
from tests.simulators.small_backbone import write_small_bundle
from tests.trainer.pace.small_lessons import ticking
from trainer.backbones.bundled import student_of_bundle
from trainer.backbones.checkpoint import save_checkpoint
from trainer.backbones.embedding import embed_windows
from trainer.backbones.student import Student, StudentSettings
from trainer.pace.adaptation import Adaptation
from trainer.pace.fitting import Lesson
from trainer.pace.settings import PaceSettings


@pytest.fixture(scope="module")
def windows() -> NDArray[np.float32]:
    rng = np.random.default_rng(5)
    return synthesised_windows(12, rng, sample_rate=16_000, window_length=16_000, hop_length=4_000)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small student as soundkeep-export writes it."""
    return exported(tmp_path_factory.mktemp("exported"), small_student())


def exported(folder: Path, model: Student, adapters: tuple[object, ...] = (), *words: str) -> Bundle:
    save_checkpoint(folder / "checkpoint", model, {}, adapters)  # type: ignore[arg-type]
    arguments = ["bundle", str(folder / "checkpoint"), "--out", str(folder / "bundle"), "--measure", "none", *words]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return open_bundle(folder / "bundle")


def test_the_shipped_ear_is_rebuilt(windows: NDArray[np.float32]) -> None:
    student = student_of_bundle(default_bundle_path())
    assert student.settings == StudentSettings() and not student.training
    wanted = Embedder(open_bundle(default_bundle_path())).embed(windows)
    np.testing.assert_allclose(embed_windows(student, windows), wanted, atol=1e-4)
    assert np.abs(wanted - embed_windows(Student().eval(), windows)).max() > 1e-2, "random weights would not do"


def test_out_of_a_bundle_adapted_and_into_one_again(
    tmp_path: Path, bundle: Bundle, windows: NDArray[np.float32]
) -> None:
    """Twice through export: the base of the second bundle is a network that was itself rebuilt."""
    student = student_of_bundle(bundle.path)
    np.testing.assert_allclose(embed_windows(student, windows), Embedder(bundle).embed(windows), atol=1e-4)
    with torch.no_grad():
        features = student.features(torch.from_numpy(windows.copy()))
    settings = PaceSettings(cka_threshold=None, epochs=3, rank=2, boundary_weight=0.0, head_epochs=3)
    adaptation = Adaptation(student, settings, clock=ticking())
    adaptation.learn(Lesson(1, features, torch.arange(12) % 2, 2), n_clips=12)
    second = exported(tmp_path / "b", student, tuple(adaptation.adapters))
    heard = Embedder(second).embed(windows)
    np.testing.assert_allclose(heard, embed_windows(adaptation.current, windows), atol=1e-4)
    assert np.abs(heard - Embedder(bundle).embed(windows)).max() > 1e-2, "adapters that change nothing would pass"
    again = student_of_bundle(second.path)
    np.testing.assert_allclose(embed_windows(again, windows), heard, atol=1e-4)


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        student_of_bundle(path)
    words = str(caught.value)
    assert str(path) in words and "\n" not in words and len(words) < 600
    return words


def test_an_int8_bundle_is_refused() -> None:
    words = refused(shipped_bundles_path() / "ear-int8")
    assert "holds no float32 student of ours" in words and "give the checkpoint" in words


@pytest.mark.parametrize("write", [write_small_bundle, write_tiny_bundle])
def test_a_foreign_bundle_is_refused(write: object, tmp_path: Path) -> None:
    assert callable(write)
    write(tmp_path / "foreign")
    assert "holds no float32 student of ours" in refused(tmp_path / "foreign")


def remade(folder: Path, source: Bundle, onnx: bytes, *, canary: bool) -> Path:
    m = source.manifest
    write_bundle(
        folder, name="ear", version=1, onnx=onnx, input_name=m.input_name, output_name=m.output_name,
        sample_rate=16_000, window_length=16_000, hop_length=4_000, dim=m.dim, grid=m.grid, licence="none",
        model_card="none\n", canary=source.canary() if canary else None,
    )  # fmt: skip
    return folder


def test_a_float16_bundle_is_refused(tmp_path: Path, bundle: Bundle, windows: NDArray[np.float32]) -> None:
    """Its weights are rounded: to go on from them in float32 would look like the float32 network and not be it."""
    half = remade(tmp_path / "half", bundle, to_float16(bundle.onnx_bytes(), windows), canary=True)
    assert "holds no float32 student of ours" in refused(half)


def test_a_bundle_without_a_canary_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    bare = remade(tmp_path / "bare", bundle, bundle.onnx_bytes(), canary=False)
    assert "has no canary to prove a rebuilt network with; give the checkpoint instead" in refused(bare)


def test_a_canary_of_another_network_is_noticed(tmp_path: Path, bundle: Bundle) -> None:
    other = remade(tmp_path / "other", bundle, to_onnx(small_student(1), 16_000), canary=True)
    assert "differs from its canary by" in refused(other)


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(default_bundle_path(), folder)
    data = bytearray((folder / "backbone.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "backbone.onnx").write_bytes(data)
    with pytest.raises(BundleError):
        student_of_bundle(folder)
    with pytest.raises(BundleError):
        student_of_bundle(tmp_path / "nothing")
