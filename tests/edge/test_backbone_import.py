"""A foreign model and a page of TOML become a bundle, or one sentence says why not and nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge.backbone_import import import_backbone, parse_spec
from edge.bundle import open_bundle
from edge.embedder import Embedder
from edge.errors import BundleError, ConfigurationError, SoundkeepError
from tests.simulators.small_backbone import DIM, SAMPLE_RATE, WINDOW_LENGTH, small_backbone

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
SPEC = f"""
name = "small"
licence = "Apache-2.0"
source = "made in a test"
notes = "For tests only."
[input]
kind = "waveform"
name = "waveform"
sample_rate = {SAMPLE_RATE}
window_length = {WINDOW_LENGTH}
hop_length = 4000
[output]
name = "embedding"
dim = {DIM}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    onnx, spec = tmp_path / "model.onnx", tmp_path / "spec.toml"
    onnx.write_bytes(small_backbone())
    spec.write_text(SPEC)
    (tmp_path / "out").mkdir()
    return onnx, spec, tmp_path / "out" / "small"


def test_a_foreign_model_becomes_a_bundle(files: tuple[Path, Path, Path]) -> None:
    bundle, first_load = import_backbone(*files)
    assert first_load.window_ms > 0.0
    assert bundle == open_bundle(files[2])
    assert (bundle.name, bundle.version, bundle.space.dim) == ("small", 1, DIM)
    assert bundle.prior() is None and bundle.canary() is None
    assert bundle.onnx_bytes() == small_backbone()
    card = bundle.read("MODEL_CARD.md").decode()
    for word in ("Apache-2.0", "made in a test", "For tests only.", "no prior statistics"):
        assert word in card
    assert os.listdir(files[2].parent) == ["small"]


def test_yamnet_by_its_example(shared_models: Path, tmp_path: Path) -> None:
    model = shared_models / "yamnet_waveform_to_embedding.onnx"
    bundle, _ = import_backbone(model, EXAMPLES / "yamnet.toml", tmp_path / "yamnet")
    embedder = Embedder(bundle)
    rng = np.random.default_rng(0)
    t = np.arange(15_600) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * 440 * t)
    sounds = np.stack([tone, tone + 0.003 * rng.standard_normal(t.size), 0.3 * rng.standard_normal(t.size)])
    quantized, n_clipped = embedder.quantized(sounds.astype(np.float32))
    unit = quantized / bundle.space.grid.scale
    assert n_clipped == 0 and unit.shape == (3, 1024)
    assert unit[0] @ unit[1] > unit[0] @ unit[2], "a tone is nearer to a tone than to noise"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("dim = 64", "dim = 63", "wanted 63 float32"),
        ('name = "embedding"', 'name = "scores"', "the manifest names 'scores'"),
        ("window_length = 16000", "window_length = 300\nhop_length = 100 #", "failed on a window|does not load"),
        ('kind = "waveform"', 'kind = "mel"', "wanted 'waveform'"),
        ('licence = "Apache-2.0"\n', "", "lacks 'licence'"),
        ("[output]", "colour = 3\n[output]", "unknown key 'colour'"),
        ("[output]", "[grids]\nbits = 3\n[output]", "unknown key 'grids'"),
        ("dim = 64", 'dim = "64"', "dim is '64'; wanted int"),
        ("dim = 64", "dim = true", "dim is True; wanted int"),
        ("[input]", "[input", "not TOML"),
        ('name = "small"', 'name = "../small"', "bundle name"),
        ("dim = 64", "dim = 64\n[grid]\nfraction_bits = 40", "fraction_bits is 40"),
        ("sample_rate = 16000", "sample_rate = 0", "sample_rate is 0"),
    ],
)
def test_each_mistake_is_named_and_leaves_nothing(
    files: tuple[Path, Path, Path], old: str, new: str, sentence: str
) -> None:
    onnx, spec, out = files
    text = SPEC.replace("hop_length = 4000\n", "") if "hop_length" in new else SPEC
    assert old in text
    spec.write_text(text.replace(old, new, 1) if old.startswith('name = "s') else text.replace(old, new))
    with pytest.raises(SoundkeepError, match=sentence) as caught:
        import_backbone(onnx, spec, out)
    assert "\n" not in str(caught.value)
    assert os.listdir(out.parent) == []


def test_files_that_cannot_be_used_are_named(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    onnx, spec, out = files
    with pytest.raises(BundleError, match=r"spec .*absent\.toml cannot be read"):
        import_backbone(onnx, tmp_path / "absent.toml", out)
    with pytest.raises(BundleError, match=r"model .*absent\.onnx cannot be read"):
        import_backbone(tmp_path / "absent.onnx", spec, out)
    onnx.write_bytes(b"RIFF")
    with pytest.raises(BundleError, match="not a whole ONNX file"):
        import_backbone(onnx, spec, out)
    out.mkdir()
    with pytest.raises(BundleError, match="exists already"):
        import_backbone(onnx, spec, out)


def test_a_spec_that_is_no_text_is_refused() -> None:
    for data in (b"\xff\xfe", b"x" * 100_000, b"a = " + b"[" * 50_000):
        with pytest.raises(ConfigurationError):
            parse_spec(data)
