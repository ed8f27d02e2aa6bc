"""A bundle is used whole and unaltered, or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge import bundle as bundle_module
from edge.bundle import Bundle, default_bundle_path, open_bundle, shipped_bundles_path, write_bundle
from edge.errors import BundleError
from edge.manifest import DetectionDefaults
from edge.npy import read_float32, write_float32
from edge.space import FeatureSpace, Grid
from edge.statistics import SufficientStatistics
from tests.simulators.small_backbone import DIM, WINDOW_LENGTH, small_backbone, write_small_bundle

N_MUTATIONS = 1000


def canary() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    return rng.standard_normal((2, WINDOW_LENGTH)).astype("f4"), rng.standard_normal((2, DIM)).astype("f4")


def prior_of(bundle: Bundle) -> SufficientStatistics:
    features = np.random.default_rng(6).integers(-9_000, 9_000, (20, DIM)).astype(np.int16)
    labels = ["speech", "rain"] * 10
    return SufficientStatistics.from_samples(FeatureSpace(bundle.space), features, labels)


@pytest.fixture
def full(tmp_path: Path, small_bundle: Bundle) -> Bundle:
    """A bundle with every kind of file."""
    return write_small_bundle(
        tmp_path / "full",
        prior=prior_of(small_bundle),
        canary=canary(),
        detection=DetectionDefaults(ridge=8.0, threshold=5.5, k=2, n=3, hold_ms=500),
        documents={"LICENCE.txt": b"free\n"},
        extra={"figures": {"esc50": "0.81"}},
    )


def test_what_is_written_is_read(full: Bundle, small_bundle: Bundle) -> None:
    again = open_bundle(full.path)
    assert again == full and again.sha256 == full.sha256
    assert (again.name, again.version) == ("small", 1)
    assert again.onnx_bytes() == small_backbone()
    assert again.space == small_bundle.space, "prior, canary and settings do not change the space"
    assert again.prior() == prior_of(small_bundle)
    waveforms, embeddings = again.canary() or pytest.fail("no canary")
    assert waveforms.tobytes() == canary()[0].tobytes() and embeddings.tobytes() == canary()[1].tobytes()
    assert again.detection.k == 2 and again.detection.min_ms is None
    assert again.read("LICENCE.txt") == b"free\n"
    assert again.manifest.extra == {"figures": {"esc50": "0.81"}}
    assert small_bundle.prior() is None and small_bundle.canary() is None


def test_the_same_content_gives_the_same_bytes(tmp_path: Path, full: Bundle, small_bundle: Bundle) -> None:
    twin = write_small_bundle(
        tmp_path / "twin",
        extra={"figures": {"esc50": "0.81"}},
        documents={"LICENCE.txt": b"free\n"},
        detection=full.detection,
        canary=canary(),
        prior=prior_of(small_bundle),
    )
    for name in os.listdir(full.path):
        assert (full.path / name).read_bytes() == (twin.path / name).read_bytes(), name


def damage_missing(folder: Path) -> None:
    (folder / "prior.stats").unlink()


def damage_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def damage_extra(folder: Path) -> None:
    (folder / "hidden.so").write_bytes(b"x")


def damage_subfolder(folder: Path) -> None:
    (folder / "more").mkdir()


def damage_one_bit(folder: Path) -> None:
    data = bytearray((folder / "backbone.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "backbone.onnx").write_bytes(data)


def damage_truncated(folder: Path) -> None:
    os.truncate(folder / "canary_waveforms.npy", 1000)


def damage_longer(folder: Path) -> None:
    with (folder / "MODEL_CARD.md").open("ab") as stream:
        stream.write(b"\n")


def damage_symlink(folder: Path) -> None:
    target = folder.parent / "outside.onnx"
    (folder / "backbone.onnx").rename(target)
    (folder / "backbone.onnx").symlink_to(target)


def damage_manifest_symlink(folder: Path) -> None:
    target = folder.parent / "outside.json"
    (folder / "manifest.json").rename(target)
    (folder / "manifest.json").symlink_to(target)


def damage_fifo(folder: Path) -> None:
    (folder / "LICENCE.txt").unlink()
    os.mkfifo(folder / "LICENCE.txt")


def damage_folder_for_file(folder: Path) -> None:
    (folder / "LICENCE.txt").unlink()
    (folder / "LICENCE.txt").mkdir()


def damage_huge_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 2**40)


def damage_huge_file(folder: Path) -> None:
    os.truncate(folder / "backbone.onnx", 2**40)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (damage_missing, "lacks prior.stats"),
        (damage_no_manifest, "no manifest.json"),
        (damage_extra, "holds 'hidden.so' which its manifest does not list"),
        (damage_subfolder, "holds 'more' which its manifest does not list"),
        (damage_one_bit, "backbone.onnx does not match the SHA-256"),
        (damage_truncated, "canary_waveforms.npy does not match the SHA-256"),
        (damage_longer, "MODEL_CARD.md has .* bytes; wanted at most"),
        (damage_symlink, "backbone.onnx is a symbolic link"),
        (damage_manifest_symlink, "manifest.json is a symbolic link"),
        (damage_fifo, "LICENCE.txt is no plain file"),
        (damage_folder_for_file, "LICENCE.txt is no plain file"),
        (damage_huge_manifest, "manifest.json has .* bytes; wanted at most"),
        (damage_huge_file, "backbone.onnx has .* bytes; wanted at most"),
    ],
)
def test_each_damage_is_refused_in_one_sentence(full: Bundle, damage: Callable[[Path], None], sentence: str) -> None:
    damage(full.path)
    with pytest.raises(BundleError, match=sentence) as caught:
        open_bundle(full.path)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1


def test_a_path_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, Path(__file__)):
        with pytest.raises(BundleError):
            open_bundle(path)


def test_bytes_that_change_after_opening_are_never_used(full: Bundle) -> None:
    damage_one_bit(full.path)
    with pytest.raises(BundleError, match="does not match the SHA-256"):
        full.onnx_bytes()


def test_without_the_hash_check_changed_weights_would_be_used(full: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mechanism switched off: a flipped bit of the weights reaches the user of the bundle."""
    damage_one_bit(full.path)
    monkeypatch.setattr(
        bundle_module, "_read_verified", lambda folder, name, entry: (folder / name).read_bytes(), raising=True
    )
    assert open_bundle(full.path).onnx_bytes() != small_backbone()


def mutate(folder: Path, rng: np.random.Generator) -> None:
    """Do one random thing to a bundle that changes its content."""
    names = sorted(os.listdir(folder))
    name = names[rng.integers(len(names))]
    file = folder / name
    data = file.read_bytes()
    at = int(rng.integers(len(data)))
    kind = rng.integers(8)
    if kind == 0:
        file.write_bytes(data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :])
    elif kind == 1:
        file.write_bytes(data[:at])
    elif kind == 2:
        file.write_bytes(data + rng.bytes(int(rng.integers(1, 50))))
    elif kind == 3:
        file.write_bytes(data[:at] + rng.bytes(8) + data[at:])
    elif kind == 4:
        file.unlink()
    elif kind == 5:
        file.rename(folder / f"{name}.old")
    elif kind == 6:
        other = folder / names[(names.index(name) + 1) % len(names)]
        swapped = other.read_bytes()
        other.write_bytes(data)
        file.write_bytes(swapped)
    else:
        digits = [m.start() for m in re.finditer(rb"[0-9]", data)] or [at]
        at = digits[rng.integers(len(digits))]
        file.write_bytes(data[:at] + (b"7" if data[at : at + 1] != b"7" else b"3") + data[at + 1 :])


def test_no_mutation_is_accepted(full: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    content = {name: (full.path / name).read_bytes() for name in os.listdir(full.path)}
    for i in range(N_MUTATIONS):
        folder = tmp_path / "mutant"
        shutil.copytree(full.path, folder)
        mutate(folder, rng)
        assert {n: (folder / n).read_bytes() for n in os.listdir(folder)} != content, i
        with pytest.raises(BundleError):
            open_bundle(folder)
        shutil.rmtree(folder)


def test_parts_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path, small_bundle: Bundle) -> None:
    waveforms, embeddings = canary()
    other_space = write_small_bundle(tmp_path / "other", hop_length=2_000)
    bad = [
        {"canary": (waveforms[:1], embeddings)},
        {"canary": (waveforms[:, :-1], embeddings)},
        {"canary": (waveforms, embeddings * np.float32(np.nan))},
        {"onnx": b"not a model"},
        {"onnx": b""},
        {"name": "../escape"},
        {"documents": {"../escape": b""}},
        {"documents": {"backbone.ONNX": b""}},
        {"dim": 0},
    ]
    for changes in bad:
        with pytest.raises(BundleError):
            write_small_bundle(tmp_path / "made", **changes)
        assert sorted(os.listdir(tmp_path)) == ["other"]
    with pytest.raises(Exception, match=r"(?i)space"):
        write_small_bundle(tmp_path / "made", prior=prior_of(other_space))
    assert sorted(os.listdir(tmp_path)) == ["other"]


def test_an_existing_folder_is_never_overwritten(full: Bundle) -> None:
    before = sorted(os.listdir(full.path))
    with pytest.raises(BundleError, match="exists already"):
        write_small_bundle(full.path)
    assert sorted(os.listdir(full.path)) == before


def test_a_write_that_fails_at_any_file_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bundle_module._write_flushed
    for fail_at in ("backbone.onnx", "MODEL_CARD.md", "manifest.json"):

        def failing(file: Path, data: bytes, fail_at: str = fail_at) -> None:
            whole(file, data[: len(data) // 2] if file.name == fail_at else data)
            if file.name == fail_at:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(bundle_module, "_write_flushed", failing)
        with pytest.raises(BundleError, match="No space left on device"):
            write_small_bundle(tmp_path / "made")
        assert os.listdir(tmp_path) == []


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    whole = bundle_module._write_flushed
    monkeypatch.setattr(bundle_module, "_write_flushed", lambda f, d: (order.append(f.name), whole(f, d))[1])
    write_small_bundle(tmp_path / "made", documents={"NOTICE": b"n"})
    assert order[-1] == "manifest.json" and set(order) == {"backbone.onnx", "MODEL_CARD.md", "NOTICE", "manifest.json"}


def test_shipped_bundles_lie_inside_the_package() -> None:
    assert default_bundle_path().parent == shipped_bundles_path()
    assert shipped_bundles_path().parent.name == "edge"


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 3)])
def test_matrices_survive_as_npy(shape: tuple[int, int]) -> None:
    matrix = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(read_float32("m", write_float32(matrix), 3), matrix)


def test_matrices_of_another_kind_are_refused() -> None:
    good = write_float32(np.ones((2, 3), np.float32))
    double = bytes(good).replace(b"<f4", b"<f8")
    objects = bytes(good).replace(b"'<f4'", b"'|O' ")
    wide = bytes(good).replace(b"(2, 3)", b"(9, 3)")
    for data in (b"", good[:-1], good + b"\0", double, objects, wide, good[:20], b"\x93NUMPY\x09\x00" + good[8:]):
        with pytest.raises(BundleError):
            read_float32("m", data, 3)
    with pytest.raises(BundleError, match=r"wanted .*\(n, 4\)"):
        read_float32("m", good, 4)


def test_grid_is_part_of_the_space(tmp_path: Path, small_bundle: Bundle) -> None:
    coarse = write_small_bundle(tmp_path / "coarse", grid=Grid(12))
    assert coarse.space.grid.fraction_bits == 12 and coarse.space.sha256 != small_bundle.space.sha256


def test_write_bundle_takes_exactly_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_bundle(tmp_path / "x", name="x")  # type: ignore[call-arg]
