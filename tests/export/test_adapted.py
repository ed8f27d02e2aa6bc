"""An adapted checkpoint, base and adapters, becomes one bundle that a device is taught with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result

from edge.bundle import Bundle, open_bundle, write_bundle
from edge.embedder import Embedder
from edge.errors import MisuseError
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics
from export.cli import main
from export.graph import INPUT, to_onnx
from export.half import to_float16
from export.material import edge_case_windows, synthesised_windows
from export.parity import TOLERANCE, agreement, check_parity
from export.quantize import QuantizeSettings, quantize_int8
from tests.export.small_student import small_student
from tests.export.test_prior import tone, write_wav
from trainer.analytic import RunSpace
from trainer.backbones.ast import Ast, AstSettings
from trainer.backbones.backbone import Backbone
from trainer.backbones.beats import Beats, BeatsSettings
from trainer.backbones.checkpoint import Adapter, Checkpoint, load_checkpoint, open_checkpoint, save_checkpoint
from trainer.backbones.eat import Eat, EatSettings
from trainer.backbones.embedding import embed_windows

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RANK = 2
MODULES = ("blocks.1.first", "blocks.3.second")
SMALL = {"window_length": 16_000, "width": 64, "depth": 2, "heads": 2, "mlp_width": 128}


def made_up_adapter(name: str, base: Backbone, modules: tuple[str, ...], seed: int) -> Adapter:
    """An adapter as a session leaves it: A (r, ...) of the weight's shape, B (out, r) or (out, r, 1, 1)."""
    g = torch.Generator().manual_seed(seed)
    down, up = {}, {}
    for module in modules:
        shape = base.get_parameter(f"{module}.weight").shape
        down[module] = 0.2 * torch.randn((RANK, *shape[1:]), generator=g)
        up[module] = 0.2 * torch.randn((shape[0], RANK, *[1] * (len(shape) - 2)), generator=g)
    return Adapter(name, 2.0, down, up)


def transformer(kind: str) -> Backbone:
    torch.manual_seed(0)
    if kind == "eat":
        return Eat(EatSettings(**SMALL)).eval()
    if kind == "beats":
        return Beats(BeatsSettings(**SMALL, patch_width=32)).eval()
    return Ast(AstSettings(**SMALL, target_frames=128)).eval()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapted")
    base = small_student()
    adapters = [made_up_adapter(f"session-{i}", base, MODULES, i) for i in (1, 2)]
    save_checkpoint(root / "checkpoint", base, {"adapt": {"accuracy_final": 0.9, "gap": 0.02}}, adapters)
    for label, hz in (("beep", 900.0), ("hum", 130.0)):
        for i in range(3):
            write_wav(root / "sounds" / f"{label}{i}.wav", tone(hz * (1.0 + 0.02 * i), 1.5))
    return root


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Checkpoint:
    return open_checkpoint(root / "checkpoint")


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bundle", *map(str, arguments)])


@pytest.fixture(scope="module")
def bundle(root: Path) -> Bundle:
    result = export(root / "checkpoint", "--out", root / "bundle", "--measure", "none")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parity"]["max_difference"] <= TOLERANCE
    return open_bundle(root / "bundle")


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    rng = np.random.default_rng(5)
    return synthesised_windows(12, rng, sample_rate=16_000, window_length=16_000, hop_length=4_000)


def test_the_bundle_hears_as_the_merged_network(bundle: Bundle, checkpoint: Checkpoint, windows: np.ndarray) -> None:
    got = Embedder(bundle).embed(windows)
    np.testing.assert_allclose(got, embed_windows(checkpoint.merged(), windows), atol=TOLERANCE)
    without = embed_windows(checkpoint.base, windows)
    first_only = embed_windows(Checkpoint(checkpoint.base, checkpoint.adapters[:1]).merged(), windows)
    for other in (without, first_only):
        assert np.abs(got - other).max() > 100 * TOLERANCE, "adapters that change nothing would pass any test"


def test_exporting_leaves_the_checkpoint_as_it_was(root: Path, bundle: Bundle) -> None:
    again = open_checkpoint(root / "checkpoint")
    for mine, theirs in zip(small_student().parameters(), again.base.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [adapter.name for adapter in again.adapters] == ["session-1", "session-2"]


def test_the_card_names_the_adapters_and_what_adapting_measured(bundle: Bundle) -> None:
    card = bundle.read("MODEL_CARD.md").decode()
    assert "session-1 (2 modules), session-2 (2 modules)" in card and '"gap": 0.02' in card


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_finite_is_refused_by_name(root: Path, checkpoint: Checkpoint, value: float) -> None:
    good = checkpoint.adapters[0]
    bad = Adapter("session-3", 1.0, good.down, {m: torch.full_like(t, value) for m, t in good.up.items()})
    save_checkpoint(root / "bad", checkpoint.base, {}, [good, bad])
    result = export(root / "bad", "--out", root / "never")
    assert result.exit_code == 1 and "weight blocks.1.first.weight is not finite" in result.stderr
    assert "Traceback" not in result.stderr and not (root / "never").exists()


def test_a_checkpoint_whose_adapters_are_gone_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "checkpoint", tmp_path / "torn")
    (tmp_path / "torn" / "adapters.safetensors").unlink()
    result = export(tmp_path / "torn", "--out", tmp_path / "never")
    assert result.exit_code == 1 and "damaged checkpoint" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("kind", ["eat", "beats", "ast"])
def test_transformers_with_adapters_in_every_precision(kind: str, tmp_path: Path, windows: np.ndarray) -> None:
    base = transformer(kind)
    inside = next(n for n, _ in base.blocks[1].named_modules() if n in base.lora_targets)
    adapter = made_up_adapter("session-1", base, (f"blocks.1.{inside}",), 1)
    save_checkpoint(tmp_path, base, {}, [adapter])
    model, _ = load_checkpoint(tmp_path)
    exported, windows = to_onnx(model, 16_000), windows[:5]
    assert check_parity(model, exported, windows).max_difference <= TOLERANCE
    wanted = embed_windows(Checkpoint(base, (adapter,)).merged(), windows)
    assert np.abs(wanted - embed_windows(base, windows)).max() > 100 * TOLERANCE
    chosen = QuantizeSettings().for_graph(onnx.load_from_string(exported))
    assert (chosen.operators, chosen.activations) == (("MatMul",), "dynamic")
    edges = edge_case_windows(16_000)
    for graph, least in ((to_float16(exported, windows[:4]), 0.9999), (quantize_int8(exported, windows[:4]), 0.99)):
        session = onnxruntime.InferenceSession(graph)
        got = np.concatenate([session.run(None, {INPUT: row[None]})[0] for row in (*windows, *edges)])
        assert np.isfinite(got).all()
        assert agreement(wanted, got[: len(windows)]).min_cosine > least


def run_soundkeep(root: Path, bundle: Bundle, *arguments: object) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "edge", "--bundle", bundle.path, "--state", root / "state", "--json", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_bundle_drops_into_the_device(root: Path, bundle: Bundle) -> None:
    for label in ("beep", "hum"):
        run_soundkeep(root, bundle, "teach", label, *(root / "sounds" / f"{label}{i}.wav" for i in (0, 1)))
    answers = run_soundkeep(root, bundle, "classify", *(root / "sounds" / f"{label}2.wav" for label in ("beep", "hum")))
    assert [max(a["scores"], key=a["scores"].__getitem__) for a in answers] == ["beep", "hum"]


def test_statistics_of_a_training_run_are_no_prior(root: Path, bundle: Bundle) -> None:
    """Its backbone changed with every session: the same bundle takes statistics of its own space, and only those."""
    manifest = bundle.manifest
    arguments: dict[str, Any] = {
        "name": "ear", "version": 1, "onnx": bundle.onnx_bytes(), "input_name": manifest.input_name,
        "output_name": manifest.output_name, "sample_rate": 16_000, "window_length": 16_000, "hop_length": 4_000,
        "dim": manifest.dim, "grid": manifest.grid, "licence": "none", "model_card": "none\n",
    }  # fmt: skip
    of_the_run = SufficientStatistics.zero(RunSpace(bundle.space, run="adapt"))
    with pytest.raises(MisuseError, match="belong to a training run"):
        write_bundle(root / "mixed", prior=of_the_run, **arguments)
    assert not (root / "mixed").exists()
    assert write_bundle(root / "own", prior=SufficientStatistics.zero(FeatureSpace(bundle.space)), **arguments).prior()
