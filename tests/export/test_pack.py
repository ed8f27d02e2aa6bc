"""A checkpoint becomes a bundle that the device accepts; the command says so in JSON and refuses in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from edge.bundle import Bundle, open_bundle
from edge.embedder import Embedder, check_canary
from edge.errors import BundleError, SpaceMismatchError
from edge.manifest import DetectionDefaults
from export.amend import amend, read_prior
from export.cli import main
from export.material import parse_sets
from export.pack import MIN_WINDOWS, PackSettings, check_edges, n_windows, pack
from tests.export.small_student import DIM, small_student, write_checkpoint
from tests.export.test_prior import tone, write_wav
from tests.trainer.synthetic_sets import write_set
from trainer.backbones.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, recordings, and the bundles that the tests look at."""
    root = tmp_path_factory.mktemp("export")
    write_checkpoint(root / "checkpoint")
    rng = np.random.default_rng(0)
    for label, frequency in (("beep", 900.0), ("hum", 120.0)):
        for i in range(6):
            sound = tone(frequency * rng.uniform(0.9, 1.1), 1.5) + 0.01 * rng.standard_normal(24_000)
            write_wav(root / "clips" / label / f"{i}.wav", sound)
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


@pytest.fixture(scope="module")
def float_bundle(root: Path) -> Bundle:
    (root / "card.md").write_text("# toy\n\nLicence: for tests.\n")
    value = answer(
        run(
            "bundle", root / "checkpoint", "--out", root / "float32", "--name", "toy", "--version", 4,
            "--data", f"toy={root / 'clips'}", "--detection", "threshold=5.5", "--detection", "k=2",
            "--model-card", root / "card.md",
        )
    )  # fmt: skip
    assert value["parity"]["max_difference"] <= 1e-4 and value["checked_on"] == "recordings"
    assert value["prior"]["n_classes"] == 2
    bundle = open_bundle(root / "float32")
    assert (value["sha256"], value["space"]) == (bundle.sha256, bundle.space.sha256)
    return bundle


@pytest.fixture(scope="module")
def int8_bundle(root: Path) -> Bundle:
    value = answer(run("bundle", root / "checkpoint", "--out", root / "int8", "--precision", "int8", "--hop", 2000))
    assert value["to_float32"]["mean_cosine"] > 0.99 and value["checked_on"] == "synthesised sounds"
    return open_bundle(root / "int8")


def test_precision_is_measured_beside_float32_in_the_same_run(root: Path, float_bundle: Bundle) -> None:
    result = run(
        "bundle", root / "checkpoint", "--out", root / "float16", "--precision", "float16",
        "--data", f"toy={root / 'clips'}", "--background", f"room={root / 'clips' / 'hum'}",
    )  # fmt: skip
    value = answer(result)
    bundle = open_bundle(root / "float16")
    assert value["precision"] == "float16" and value["to_float32"]["min_cosine"] > 0.999
    assert value["onnx_bytes"] == {"float32": len(float_bundle.onnx_bytes()), "float16": len(bundle.onnx_bytes())}
    assert value["onnx_bytes"]["float16"] < value["onnx_bytes"]["float32"]
    assert set(value["window_ms"]) == set(value["readout"]["toy"]) == {"float32", "float16"}
    assert 0 < value["n_tested"]["toy"] < 12 and value["prior"]["n_classes"] == 3
    assert bundle.manifest.extra["export"] == {k: v for k, v in value.items() if k not in {"path", "sha256", "space"}}
    for words in ("float16 beside float32", "clips kept out): ", "one window costs a core"):
        assert words in result.stderr
    card = bundle.read("MODEL_CARD.md").decode()
    assert "|  | float32 | float16 |" in card and "read-out accuracy, toy, " in card


def test_without_data_speed_is_measured_and_nothing_when_so_asked(root: Path, int8_bundle: Bundle) -> None:
    with_speed = int8_bundle.manifest.extra["export"]
    assert set(with_speed["window_ms"]) == {"float32", "int8"} and "readout" not in with_speed
    assert with_speed["how"] == {"operators": ["Conv"], "activations": "static"}
    value = answer(run("bundle", root / "checkpoint", "--out", root / "quick", "--measure", "none"))
    assert not value.keys() & {"window_ms", "readout", "to_float32", "processor", "how", "left_out"}


def test_the_hop_is_a_quarter_of_the_window_unless_told(float_bundle: Bundle, int8_bundle: Bundle) -> None:
    assert (float_bundle.space.hop_length, int8_bundle.space.hop_length) == (4000, 2000)


def test_longer_windows_are_fewer() -> None:
    model = small_student()
    assert n_windows(64, model) == 64
    model.window_length = 160_000
    assert n_windows(64, model) == MIN_WINDOWS and n_windows(256, model) == 26


def test_float16_that_would_overflow_is_refused_and_leaves_nothing(root: Path) -> None:
    loud = small_student()
    with torch.no_grad():
        loud.project.weight.mul_(1e5)
        loud.standardize.running_var.mul_(1e10)
    save_checkpoint(root / "loud", loud, {})
    answer(run("bundle", root / "loud", "--out", root / "loud32", "--measure", "none"))
    result = run("bundle", root / "loud", "--out", root / "loud16", "--precision", "float16")
    assert result.exit_code == 1 and "float16 ends at 65504" in result.stderr and "Traceback" not in result.stderr
    assert not (root / "loud16").exists()


def test_edges_that_break_a_precision_are_refused(float_bundle: Bundle) -> None:
    class Broken(Embedder):
        def embed(self, windows: np.ndarray) -> np.ndarray:
            if not windows.any(axis=1).all():
                raise BundleError("output 'embedding' holds numbers that are not finite; the backbone is unusable")
            return super().embed(windows)

    check_edges(Embedder(float_bundle), "int8")
    with pytest.raises(BundleError, match="in int8 silence or a full-scale sound breaks the network"):
        check_edges(Broken(float_bundle), "int8")


def test_the_bundle_is_complete(float_bundle: Bundle) -> None:
    assert (float_bundle.name, float_bundle.version, float_bundle.space.dim) == ("toy", 4, DIM)
    assert (float_bundle.detection.threshold, float_bundle.detection.k) == (5.5, 2)
    prior = float_bundle.prior()
    assert prior is not None and prior.labels == ("toy/beep", "toy/hum")
    card = float_bundle.read("MODEL_CARD.md").decode()
    assert card.startswith("# toy\n") and "for tests" in card and "max_difference" in card and "random weights" in card


def test_the_canary_comes_out_as_at_export(float_bundle: Bundle, int8_bundle: Bundle) -> None:
    for bundle in (float_bundle, int8_bundle):
        report = check_canary(bundle, Embedder(bundle))
        assert report is not None and report.n == 4
        assert report.max_difference == 0.0, "the same machine gives the same bits"


def test_float_and_int8_are_two_spaces(root: Path, float_bundle: Bundle, int8_bundle: Bundle) -> None:
    assert float_bundle.space.backbone_sha256 != int8_bundle.space.backbone_sha256
    assert int8_bundle.space.hop_length == 2000
    assert len(int8_bundle.onnx_bytes()) != len(float_bundle.onnx_bytes())
    (root / "float.stats").write_bytes(float_bundle.read("prior.stats"))
    with pytest.raises(SpaceMismatchError):
        read_prior(root / "float.stats", int8_bundle.path)


def test_prior_and_amend_change_everything_but_the_ear(root: Path, int8_bundle: Bundle) -> None:
    value = answer(run("prior", int8_bundle.path, "--data", f"toy={root / 'clips'}", "--out", root / "int8.stats"))
    assert value["n_files"] == 12 and value["n_classes"] == 2
    amended = root / "amended"
    value = answer(
        run("amend", int8_bundle.path, "--out", amended, "--prior", root / "int8.stats", "--version", 2,
            "--detection", "ridge=0.5", "--model-card", root / "checkpoint" / "checkpoint.json")
    )  # fmt: skip
    bundle = open_bundle(amended)
    assert (
        bundle.space == int8_bundle.space and bundle.sha256 != int8_bundle.sha256 == open_bundle(root / "int8").sha256
    )
    prior = bundle.prior()
    assert prior is not None and prior.n_samples > 0
    assert bundle.onnx_bytes() == int8_bundle.onnx_bytes()
    assert (bundle.version, bundle.detection.ridge) == (2, 0.5)
    assert "random weights" in bundle.read("MODEL_CARD.md").decode()
    again = amend(bundle, root / "again", detection={"ridge": None})
    assert again.detection.ridge is None and again.prior() == prior
    with pytest.raises(BundleError, match="no setting 'volume'"):
        amend(bundle, root / "loud", detection={"volume": 11})


def test_accuracy_compares_bundles(root: Path, float_bundle: Bundle, int8_bundle: Bundle) -> None:
    result = run("accuracy", float_bundle.path, int8_bundle.path, "--data", f"toy={root / 'clips'}")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["path"] for line in lines] == [str(float_bundle.path), str(int8_bundle.path)]
    for line in lines:
        assert line["sets"][0]["n_clips"] == 12 and line["sets"][0]["accuracy"] >= 0.9


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["bundle", "{root}/absent", "--out", "{root}/x"], 1, "is no checkpoint"),
        (["bundle", "{root}/checkpoint", "--out", "{root}/checkpoint"], 1, "exists already"),
        (["bundle", "{root}/checkpoint", "--out", "{root}/x", "--data", "a=/no/such"], 1, "/no/such is no folder"),
        (["bundle", "{root}/checkpoint", "--out", "{root}/x", "--detection", "k"], 2, "wanted KEY=NUMBER"),
        (["bundle", "{root}/checkpoint", "--out", "{root}/x", "--detection", "k=two"], 2, "wanted KEY=NUMBER"),
        (["bundle", "{root}/checkpoint", "--out", "{root}/x", "--detection", "volume=1"], 2, "no setting 'volume'"),
        (["bundle", "{root}/checkpoint", "--out", "{root}/x", "--model-card", "{root}/no.md"], 2, "cannot be read"),
        (["bundle", "{root}/checkpoint"], 2, "--out"),
        (["bundle", "{root}/checkpoint", "--out", "{root}/x", "--precision", "int4"], 2, "'int4' is not one of"),
        (["bundle", "{root}/checkpoint", "--out", "{root}/x", "--hop", "0"], 2, "'--hop'"),
        (["bundle", "{root}/checkpoint", "--out", "{root}/x", "--hop", "16001"], 2, "hop_length"),
        (["prior", "{root}/float32", "--out", "{root}/x"], 2, "no recordings given"),
        (["prior", "{root}/checkpoint", "--data", "{root}/clips", "--out", "{root}/x"], 1, "is no bundle"),
        (["amend", "{root}/float32", "--out", "{root}/x", "--prior", "{root}/absent"], 1, "cannot be read"),
        (["dance"], 2, "dance"),
    ],
)
def test_each_refusal_is_one_sentence_and_leaves_nothing(
    root: Path, float_bundle: Bundle, arguments: list[str], code: int, sentence: str
) -> None:
    result = run(*[a.replace("{root}", str(root)) for a in arguments])
    assert result.exit_code == code, result.output
    assert sentence in result.stderr and "Traceback" not in result.stderr and result.stdout == ""
    assert "x" not in os.listdir(root)


def test_sets_are_named_or_take_the_folders_name(tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    assert parse_sets([str(tmp_path / "rooms"), f"home={tmp_path}"]) == {"rooms": tmp_path / "rooms", "home": tmp_path}


def test_sounds_that_will_be_taught_check_but_never_enter_the_prior(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    home, street = write_set(tmp_path / "home", n_classes=2), write_set(tmp_path / "street", n_classes=3, seed=5)
    settings = PackSettings(checks={"home": home}, data={"street": street}, measure="none")
    bundle, report = pack(checkpoint, tmp_path / "ear", settings)
    prior = bundle.prior()
    assert prior is not None and {label.split("/")[0] for label in prior.labels} == {"street"}
    assert report.material == "recordings"
    alone, report = pack(checkpoint, tmp_path / "bare", PackSettings(checks={"home": home}, measure="none"))
    assert alone.prior() is None and report.material == "recordings"


def test_defaults_of_the_adapted_bundle_go_on_unless_others_are_given(tmp_path: Path) -> None:
    known = {"ridge": 4096.0, "threshold": 3.5}
    save_checkpoint(tmp_path / "checkpoint", small_student(), {"detection": known})
    settings = PackSettings(measure="none", detection=DetectionDefaults(threshold=5.0))
    bundle, _ = pack(tmp_path / "checkpoint", tmp_path / "ear", settings)
    assert (bundle.detection.ridge, bundle.detection.threshold, bundle.detection.k) == (4096.0, 5.0, None)
